"""The layouts of MoEUT's author: the package (RobertCsordas/moeut) and its training code (…/moeut_training_code).

A group of layers, SwitchHead attention with RoPE and a sigma-MoE network, is run again and again with the same weights.
The weights do not show how often; training files do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..config import LayerConfig, ModelConfig
from ..errors import CheckpointError
from ..feed_forward import MoEConfig
from ..mixers import SwitchHeadConfig
from .facts import Facts
from .mapping import Entry, count_layers, shape_of, weight_and_bias
from .options import OptionError
from .switch_head import (
    NORM_EPS,
    PACKAGE,
    TRAINING,
    AttentionNames,
    moe_entries,
    read_attention_config,
    read_experts,
)

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Naming:
    """What one of the two codes calls the parts of a model.

    Attributes:
        layers: the list of layers.
        attention: an attention layer inside a layer, and `names` inside that.
        names: the weights of an attention layer.
        network: the sigma-MoE network inside a layer.
        norms: what normalises the attention's side and the network's side inside a layer.
        norm: whether these act on all that goes in ("pre") or on queries, keys and routing alone ("peri").
        output: the projection to logits.
    """

    layers: str
    attention: str
    names: AttentionNames
    network: str
    norms: tuple[str, str]
    norm: Literal["pre", "peri"]
    output: str


_PACKAGE = Naming("transformer.layers", "attention", PACKAGE, "ffn", ("ln1", "ln2"), "peri", "lm_head")
_TRAINED = Naming("unique_layers", "self_attn", TRAINING, "pkm", ("self_attn.norm", "pkm.norm"), "peri", "output")
_TRAINED_PRE = Naming("unique_layers", "self_attn", TRAINING, "pkm", ("norm1", "norm2"), "pre", "output")
_STATISTICS = ("iter", "kv_sel_counts_100")


def find_naming(weights: Weights) -> Naming:
    """Tell which names a file uses.

    Raises:
        CheckpointError: none of the known ones.
    """
    for naming in (_PACKAGE, _TRAINED, _TRAINED_PRE):
        first = f"{naming.layers}.0"
        if {f"{first}.{naming.attention}.{naming.names.query}", f"{first}.{naming.norms[0]}.weight"} <= set(weights):
            return naming
    some = ", ".join(sorted(weights)[:5])
    raise CheckpointError(
        "the weights are those of no MoEUT language model; missing: transformer.layers.0.attention.q.weight of the "
        f"package or unique_layers.0.self_attn.projections.q of its training code (the file has {some}, …)"
    )


def read_config(weights: Weights, naming: Naming, facts: Facts) -> ModelConfig:
    """Read the configuration off the weights.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing or contradicts another.
        OptionError: an option is missing or contradicts the file.
    """
    vocab_size, width = shape_of(weights, "embedding.weight", 2)
    first = f"{naming.layers}.0"
    layer = LayerConfig(
        mixer=read_attention_config(weights, f"{first}.{naming.attention}.", naming.names, facts),
        feed_forward=read_experts(weights, f"{first}.{naming.network}", facts),
        norm=naming.norm,
    )
    group = count_layers(weights, rf"{naming.layers}\.(\d+)\.".replace("transformer.", r"transformer\."))
    layers = facts.demand(
        "layers", f"the file has a group of {group} layers, which is run several times: give layers, their sum"
    )
    if layers % group:
        raise OptionError(f"layers is {layers}, which is no multiple of the {group} layers in the file")
    return ModelConfig(
        task="language_model",
        width=width,
        layers=(layer,) * group,
        vocab_size=vocab_size,
        norm_eps=facts.answer("norm_eps", NORM_EPS),
        output_bias=f"{naming.output}.bias" in weights,
        repeats=layers // group,
    )


def entries(config: ModelConfig, naming: Naming = _PACKAGE) -> list[Entry]:
    """Return the table between our names and the author's for a model of this configuration."""
    from .switch_head import attention_entries

    width = config.width
    table = [Entry("embedding.weight", "embedding.weight", (config.vocab_size, width))]
    for index, layer in enumerate(config.layers):
        assert isinstance(layer.mixer, SwitchHeadConfig) and isinstance(layer.feed_forward, MoEConfig)
        ours, theirs = f"layers.{index}", f"{naming.layers}.{index}"
        attention = f"{theirs}.{naming.attention}."
        table += weight_and_bias(f"{ours}.norm1", f"{theirs}.{naming.norms[0]}", (width,))
        table += attention_entries(layer.mixer, width, naming.names, f"{ours}.mixer.", attention)
        table += weight_and_bias(f"{ours}.norm2", f"{theirs}.{naming.norms[1]}", (width,))
        table += moe_entries(layer.feed_forward, width, f"{ours}.feed_forward", f"{theirs}.{naming.network}")
    table += weight_and_bias("norm", "out_norm", (width,))
    table.append(Entry("output.weight", f"{naming.output}.weight", (config.vocab_size, width)))
    if config.output_bias:
        table.append(Entry("output.bias", f"{naming.output}.bias", (config.vocab_size,)))
    return table


def ignored_names(config: ModelConfig, naming: Naming) -> set[str]:
    """Return the names in a file that carry no weights."""
    layers = range(len(config.layers))
    return {f"{naming.layers}.{index}.{naming.network}.{name}" for index in layers for name in _STATISTICS}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse orders of the shared layers that we cannot run.

    Raises:
        CheckpointError: the layers of a group follow themselves (aabb).
    """
    order = arguments.get("transformer.universal.group_type", "abab")
    if order != "abab" and arguments.get("transformer.universal.group_size", 1) != 1:
        raise CheckpointError(
            f"the file was trained with transformer.universal.group_type = {order!r}: each layer repeated by itself; "
            "supported: 'abab'"
        )
