"""Operations of a model that exists as a configuration only: counted from the sizes of its parts, without any weights.

A multiply-add is two operations, as everywhere in `inspect`. Every weight matrix is multiplied with every token,
experts count as far as they are used, and what is left is each mixer's own work between tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .result import Cost

if TYPE_CHECKING:
    from hsm_models.config import ModelConfig

_EXPERTS = re.compile(r"\.(value|output|up|down)\.weight$")


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight by name; no memory is taken for them.

    Raises:
        hsm_models.errors.ConfigError: the configuration cannot be built.
    """
    import torch

    from hsm_models.checkpoint import build_model

    with torch.device("meta"):
        model = build_model(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def configured_costs(
    config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], length: int, context: int
) -> tuple[dict[str, Cost], Cost, dict[str, int]]:
    """Return the work of one sequence: of each part, of the whole model, and the kinds that cannot be counted.

    Layers that share weights count as often as they run.

    Args:
        config: the model's configuration.
        shapes: the shape of every weight by name.
        length: tokens T that are computed.
        context: tokens before them whose keys and values are in memory, as in Transformer-XL.
    """
    rows: dict[str, Cost] = {}
    uncounted: dict[str, int] = {}
    for name, part in config.parts().items():
        fields = {**vars(part)}
        own = {weight: shape for weight, shape in shapes.items() if weight.startswith(f"{name}.")}
        between = part.operations(config.width, length, context)
        if between is None:
            uncounted[part.kind] = uncounted.get(part.kind, 0) + 1
        flops = _products(own, fields, length) + (between or 0)
        rows[name] = Cost.of(length, flops * config.repeats, _bytes(own))
    outside = {
        name: shape
        for name, shape in shapes.items()
        if not any(name.startswith(f"{part}.") for part in rows) and not name.startswith("embedding.")
    }
    flops = sum(cost.flops for cost in rows.values()) + _products(outside, {}, length)
    if config.tie_embeddings:
        flops += 2 * length * config.width * config.vocab_size
    return rows, Cost.of(length, flops, _bytes(shapes)), uncounted


def memory_floats(config: ModelConfig, length: int, context: int) -> int:
    """Return the numbers that one attention layer keeps for a sequence, as SwitchHead's paper counts them.

    H (4 T f + 2 (T + context) T + 2 (T + context) f) of the first mixer with heads: projections, scores and their
    softmax, relative positions (arXiv:2312.07987, appendix). 0 without attention that has scores.
    """
    for part in config.parts().values():
        if part.kind in ("switch_head", "softmax"):
            heads: int = getattr(part, "heads")  # noqa: B009
            width: int = part.head_width(config.width)  # type: ignore[attr-defined]
            keys = length + context
            return heads * (4 * length * width + 2 * keys * length + 2 * keys * width)
    return 0


def _products(weights: Mapping[str, tuple[int, ...]], fields: Mapping[str, Any], length: int) -> int:
    """Two operations for each token and each number of a matrix; of experts only the active ones."""
    total = 0.0
    experts, active = fields.get("experts"), fields.get("active")
    for name, shape in weights.items():
        if len(shape) < 2 or name.endswith("temperature") or name.endswith("position.weight"):
            continue
        used = active / experts if experts and active and len(shape) > 2 and _EXPERTS.search(name) else 1
        total += 2 * length * used * math.prod(shape)
    return round(total)


def _bytes(weights: Mapping[str, tuple[int, ...]]) -> int:
    """The weights in float32, read once."""
    return 4 * sum(math.prod(shape) for shape in weights.values())
