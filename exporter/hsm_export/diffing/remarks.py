"""What numbers do not say by themselves: why a node is at fault, and what rounding takes of a passed output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hsm_operators import find

from ..comparison.allowance import APPROXIMATED
from ..dtypes import EPSILON
from .layers.graph import LayerGraph, node_name

if TYPE_CHECKING:
    from ..comparison.result import ComparedOutput
    from ..runtimes.runtime import RunContext
    from .results import LayerDiff, RuntimeDiff

# A threshold beyond so many units in the last place is worth a word; and a layer that amplifies errors so many times.
_UNITS, _AMPLIFIES = 256.0, 100.0
# Relative to the function's scale, what a fast approximation in float16 may be off.
_APPROXIMATE = 2.0**-9
# Types that quantised tensors have.
_STEPS = ("int8", "uint8", "int16", "uint16")


def remarks(reports: Iterable[RuntimeDiff], graph: LayerGraph, folder: Path, precision: str) -> list[str]:
    """Return a sentence for each ill-conditioned output that is within its threshold, with the node that makes it so.

    Args:
        reports: the runtimes that were compared.
        graph: the file's graph; folder: where its external data lies.
        precision: the file's.
    """
    worst: dict[str, ComparedOutput] = {}
    layers: dict[str, LayerDiff] = {}
    for report in reports:
        for output in report.outputs:
            beyond = output.threshold.value > _UNITS * EPSILON[precision] * output.errors.scale
            known = worst.get(output.output)
            if output.passed and beyond and (known is None or output.errors.max_abs > known.errors.max_abs):
                worst[output.output] = output
        for layer in report.layers:
            if (layer.amplification or 0.0) > _AMPLIFIES:
                layers.setdefault(layer.tensor, layer)
    return [_remark(output, list(layers.values()), graph, folder) for output in worst.values()]


def _remark(output: ComparedOutput, layers: list[LayerDiff], graph: LayerGraph, folder: Path) -> str:
    error, scale = output.errors.max_abs, output.errors.scale
    text = f"{output.output} is ill-conditioned: rounding explains errors up to {output.threshold.value:.2g}"
    text += f" on {scale:.3g}, {output.runtime} is off by {error:.2g}"
    quantum = quantum_of(error, graph, folder)
    if quantum:
        return f"{text}, one quantum of {quantum}"
    if layers:
        worst = max(layers, key=lambda item: item.amplification or 0.0)
        word = " (cancellation)" if worst.operator in ("Add", "Sub", "Sum", "ReduceSum", "ReduceMean") else ""
        text += f"; {worst.node} ({worst.operator}) amplifies errors {worst.amplification:,.0f} times{word}"
    return text


def quantum_of(gap: float, graph: LayerGraph, folder: Path) -> str:
    """Return the node whose quantisation step a difference is: a number lay between two values; "" for none."""
    from onnx import numpy_helper

    constants: dict[str, Any] = {item.name: item for item in graph.model.graph.initializer}
    for index, node in enumerate(graph.model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] in constants:
            steps = np.atleast_1d(numpy_helper.to_array(constants[node.input[1]], str(folder)))
            if np.isclose(gap, steps.astype(np.float64), rtol=1e-3).any():
                return f"{node_name(node, index)} ({node.op_type})"
    return ""


def joined(runtime: str, name: str, graph: LayerGraph, context: RunContext) -> str:
    """Say with what ONNX Runtime joins a node while its tensors are looked at; "" where it does not."""
    from hsm_operators import inline

    from ..runtimes import get
    from ..runtimes.fusion import fusions
    from .layers.tapping import expose, wanted

    settings = get(runtime).session
    if settings is None:
        return ""
    model = inline(expose(context.model, graph, wanted(graph)))
    for index, node in enumerate(model.graph.node):
        node.name = node_name(node, index)
    try:
        found = [item for item in fusions(model, context.folder, settings=settings) if name in item.nodes]
    except Exception:  # the culprit stands without it
        return ""
    return f"{found[0].operator} in place of {', '.join(found[0].nodes)}" if found else ""


def word_of(runtime: str, item: LayerDiff, fused: str, graph: LayerGraph, folder: Path) -> str:
    """Return the one word for what a node at fault does, from what was measured of it."""
    operator, reason = find(item.domain, item.operator), str(item.reason)
    own, scale = item.own or 0.0, max(item.errors.scale, 1.0)
    if reason.startswith(("overflow", "two results")):
        return "overflow" if reason.startswith("overflow") else "nondeterminism"
    if runtime == "onnx64":
        return "wrong maths"
    if fused:
        return "fusion"
    if quantum_of(own, graph, folder) or (item.dtype in _STEPS and own <= 1.0):
        return "quantisation"  # one step to the side; what is off by more is no matter of rounding to steps
    if operator is not None and operator.states:
        return "state"
    if item.operator in APPROXIMATED and own < _APPROXIMATE * scale:
        return "approximation"
    return "cancellation" if (item.amplification or 0.0) > _AMPLIFIES else "wrong kernel"


def told(layers: list[LayerDiff], masks: list[LayerDiff]) -> tuple[list[LayerDiff], list[str]]:
    """Return layers without the faults of those that are masks, and what a reader should know of all."""
    remarks = [f"{_named(masks)} overflows where a mask did, which changes no output"] if masks else []
    unjudged = [item for item in layers if item.own is None and item.passed]
    if unjudged:
        remarks.append(f"not judged (not shown, or not computed in float64): {_named(unjudged)}")
    known = {id(item) for item in masks}
    return [replace(item, reason=None) if id(item) in known else item for item in layers], remarks


def _named(layers: list[LayerDiff]) -> str:
    """Name five layers and count the rest."""
    names = list(dict.fromkeys(f"{item.node} ({item.operator})" for item in layers))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
