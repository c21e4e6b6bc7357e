"""Layers of a quantised file: what quantising their weights costs, told from what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..formats.quantisation_plan import QuantisationPlan
from .results import LayerDiff

# How many layers a note names.
_NAMED = 5
# Of a layer's largest number: steps of int4 cost a fifth at the worst seen; other weights cost all of it and more.
_MOST = 0.5


def split(
    layers: list[LayerDiff], plan: QuantisationPlan, reads: Mapping[str, Collection[str]]
) -> tuple[list[LayerDiff], str]:
    """Return what layers differ from their source by, unjudged where their weights are quantised, and a note.

    Their own error stays what it is: that is what quantising costs the layer. A layer that holds none of the plan's
    weights has no such excuse, nor has one that errs by half its largest number.

    Args:
        layers: the file's maths in float64 against the source's, on the source's inputs.
        plan: what the file carries.
        reads: the tensors that the nodes of each unit read, by its name.
    """
    weights = [item.name for item in plan.weights if item.form != "fp32"]
    quantised = {item.node for item in layers if _holds(item.node, reads.get(item.node, ()), weights)}
    shares = {id(item): _share(item) for item in layers if item.node in quantised and _share(item) < _MOST}
    costs = sorted((item for item in layers if id(item) in shares), key=lambda item: -_share(item))
    named = [f"{item.node} {_share(item):.2g}" for item in costs[:_NAMED]]
    more = f" and {len(costs) - _NAMED} more" if len(costs) > _NAMED else ""
    note = (
        f"quantising errs, relative to each layer's largest number, by {', '.join(named) or 'nothing'}{more} (layers "
        "of onnx64); runtimes are held to what the quantised file means. Whether it keeps "
        f"{plan.budget.text}, `hsm-export validate` says"
    )
    return [replace(item, reason=None, threshold=None) if id(item) in shares else item for item in layers], note


def _share(item: LayerDiff) -> float:
    """Return a layer's own error relative to its largest number."""
    return (item.own or 0.0) / item.errors.scale if item.errors.scale > 0 else 0.0


def _holds(unit: str, reads: Collection[str], weights: list[str]) -> bool:
    """Whether a unit has one of the weights: by its module's name, or because its nodes read what the weight became."""
    stored = tuple(f"{name}." for name in weights)
    return any(name.startswith(f"{unit}.") or name == unit for name in weights) or any(
        name in weights or name.startswith(stored) for name in reads
    )
