"""Operations of a model that exists as a configuration only: counted from the sizes of its parts, without any weights.

A multiply-add is two operations, as everywhere in `inspect`. Every weight matrix is multiplied with every token,
experts count as far as they are used, and what is left is each mixer's own work between tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .result import Cost

if TYPE_CHECKING:
    from hsm_models.config import ModelConfig

_EXPERTS = re.compile(r"\.(value|output|up|down)\.weight$")
_SOFTMAX = 5  # operations an element, as for ONNX's Softmax


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
        between = _BETWEEN.get(part.kind)
        if between is None:
            uncounted[part.kind] = uncounted.get(part.kind, 0) + 1
            between = _nothing
        flops = _products(own, fields, length) + between(fields, config.width, length, context)
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


def _nothing(_fields: Mapping[str, Any], _width: int, _length: int, _context: int) -> int:
    return 0


def _shift(fields: Mapping[str, Any], width: int, length: int, _context: int) -> int:
    """A weighted sum of two tokens in each channel, or of a gate's two sides."""
    return (1 if fields["mixing"] in ("matrix", "fusion") else 3) * length * width


def _scores(fields: Mapping[str, Any], width: int, length: int, context: int) -> int:
    """Softmax attention of T queries to as many keys and those before them; a window cuts these off."""
    heads, head_dim = fields["heads"], fields["head_dim"] or width // fields["heads"]
    keys = length + context
    if fields.get("window"):
        keys = min(keys, fields["window"])
    pairs = heads * length * keys
    work: int = pairs * (4 * head_dim + _SOFTMAX)
    if fields.get("positions") == "xl":  # each distance projected once, and its product with every query
        work += 2 * keys * width * heads * head_dim + 2 * pairs * head_dim
    return work


def _polynomial(fields: Mapping[str, Any], width: int, length: int, _context: int) -> int:
    """TaylorShift's operator, as its specification counts it."""
    from hsm_operators import OPERATORS, expression

    head_dim = fields["head_dim"] or width // fields["heads"]
    operator = OPERATORS["CausalTaylorShift" if fields["causal"] else "TaylorShift"]
    assert operator.cost is not None
    sizes = {"B": 1, "H": fields["heads"], "T": length, "d": head_dim, "e": fields["value_dim"] or head_dim}
    return int(expression.evaluate(operator.cost.flops, sizes))


_BETWEEN: dict[str, Callable[[Mapping[str, Any], int, int, int], int]] = {
    "hsm": _shift,
    "softmax": _scores,
    "switch_head": _scores,
    "taylor_shift": _polynomial,
    "mlp": _nothing,
    "moe": _nothing,
}
