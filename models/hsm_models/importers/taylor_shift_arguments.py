"""The training options in a file of TaylorShift's training code: what they say, and what is refused.

The trainer hands its options to timm's registry under the model's name; a registered name fixes the sizes, the output
norm, GELU, CLS pooling, positions without a row for the CLS token and eps 1e-6 wherever no option says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from .options import ImportOptions

# What follows `taylor_shift_triv_` or `taylor_shift_eff_` in the registered names; both forms have the same weights.
REGISTERED = {"listops": 8, "imdb": 4, "cifar": 4, "vit_ti_p16": 3, "vit_s_p16": 6}
SUPPORTED = ", ".join(f"taylor_shift_{{triv,eff}}_{name}" for name in REGISTERED)

_BASELINES = {
    "transformer": "softmax attention",
    "vit": "softmax attention",
    "deit": "softmax attention",
    "flash_vit": "softmax attention",
    "eva": "EVA attention",
    "linformer": "Linformer attention",
    "performer": "Performer attention",
    "reformer": "Reformer attention",
    "rfa": "random feature attention",
}
# Options of timm's constructors that change what is computed, with the value that the registered models have.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "pre_norm": ((False, None), "a LayerNorm in front of the layers instead of behind them"),
    "fc_norm": ((False, None), "a LayerNorm behind the pooling"),
    "qk_norm": ((False, None), "LayerNorms of queries and keys"),
    "class_token": ((True, None), "a model without CLS token"),
    "conv_embed": ((False, None), "convolutional embeddings"),
    "a": ((0.5, None), "another polynomial than 1 + x + x^2/2"),
    "b": ((1.0, None), "another polynomial than 1 + x + x^2/2"),
    "c": ((1.0, None), "another polynomial than 1 + x + x^2/2"),
    "embed_layer": ((None,), "another patch embedding"),
    "act_layer": ((None,), "another activation"),
    "norm_layer": ((None,), "another norm"),
    "block_fn": ((None,), "other blocks"),
    "global_pool": (("token", "avg", None), "another pooling"),
}


def options_from(arguments: Mapping[str, Any]) -> ImportOptions:
    """Read the options that a training file stores beside its weights.

    Args:
        arguments: the dictionary `args` of the file; empty in a plain state dict.

    Raises:
        CheckpointError: the file is another model's, or was trained with something that we cannot rebuild.
    """
    name = arguments.get("model")
    for option, (supported, feature) in _FIXED.items():
        value = arguments.get(option)
        if value not in supported:
            listed = ", ".join(repr(item) for item in supported if item is not None) or "the trainer's default"
            raise CheckpointError(f"the file was trained with {option} = {value!r}: {feature}; supported: {listed}")
    if not isinstance(name, str):
        return ImportOptions()
    _check_model(name)
    found = re.fullmatch(r"taylor_shift_(?:triv|eff)_(\w+)", name)
    registered = REGISTERED.get(found.group(1)) if found else None
    heads = arguments.get("num_heads")
    cls_position = arguments.get("no_embed_class")
    size = arguments.get("imsize")
    return ImportOptions(
        heads=heads if isinstance(heads, int) and heads > 0 else registered,
        query_scale="training",
        output_norm=True if registered else False if "nonorm" in name.lower() else None,
        activation="gelu" if registered else None,
        norm_eps=1e-6 if registered else None,
        pooling=arguments.get("global_pool") or ("token" if registered else None),
        cls_position=None if cls_position is None and not registered else cls_position not in (True, None),
        image_size=size if "vit" in name and isinstance(size, int) else None,
    )


def _check_model(name: str) -> None:
    """Refuse the name of a model that is no TaylorShift transformer of the trainer."""
    if "convemb" in name:
        raise CheckpointError(
            f"the file says that it is {name}, whose tokens or patches go through convolutional embeddings: those are "
            f"not supported; supported: {SUPPORTED}"
        )
    if name.startswith("taylor_shift"):
        return
    lower = name.lower()
    kind = next((kind for prefix, kind in _BASELINES.items() if lower.startswith(prefix)), "no TaylorShift attention")
    raise CheckpointError(
        f"the file says that it is {name}: {kind}, not TaylorShift; the layout taylor-shift supports {SUPPORTED}"
    )
