"""Whole graphs in which a runtime with kernels runs some operators from their bodies: its kernels are left out there.

What a bisection finds node by node is checked here, where the runtime sees, and optimises, the whole graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...comparison.error import distance
from ...runtimes import get, is_runtime
from ...runtimes.runtime import RunContext
from ...validation.running import quiet
from ..layers.graph import LayerGraph
from .segment import Segment, SegmentSearch

Array = NDArray[Any]
# A domain of this prefix has the functions of the domain that follows; no library has kernels for it.
_BODIES = "hsm_export.bodies."
_WITH_KERNELS = ("ort-fused", "cuda-emulated", "ort-cuda")


class WholeGraph:
    """Runs a whole file the bad way, and with some of its kernels only.

    Args:
        context: what is run.
        good, bad: the ways; only runtimes run whole graphs.
        feed: the graph's inputs.
        output: the output that counts.
    """

    def __init__(self, context: RunContext, good: str, bad: str, feed: Mapping[str, Array], output: str) -> None:
        self._context = context
        self._bad = bad
        self._swaps_bodies = good == "ort" and bad in _WITH_KERNELS
        self._feed = feed
        self._output = output

    def error(self, reference: Array) -> float | None:
        """Return the error of the whole file the bad way; None where that is not one runtime."""
        runtime = "ort" if self._bad == self._context.precision else self._bad
        return self._error(runtime, self._context.model, reference) if is_runtime(runtime) else None

    def segment(
        self, right: Mapping[str, Array], alone: Mapping[str, Array], progress: Callable[[str], None]
    ) -> Segment | None:
        """Return the smallest sub-graph that is wrong as a whole; arguments as of `SegmentSearch`."""
        runtime = "ort" if self._bad == self._context.precision else self._bad
        return SegmentSearch(self._context, LayerGraph(self._context.model), runtime, right, alone, progress).run()

    def error_with(self, kernels: Collection[str], reference: Array) -> tuple[float, float] | None:
        """Return the errors with the kernels of these nodes alone, and with all others; None where none are swapped."""
        if not self._swaps_bodies:
            return None
        model = self._context.model
        functions = {(function.domain, function.name) for function in model.functions}
        others = {node.name for node in model.graph.node if (node.domain, node.op_type) in functions} - set(kernels)
        return (
            self._error(self._bad, from_bodies(model, others), reference),
            self._error(self._bad, from_bodies(model, kernels), reference),
        )

    def _error(self, runtime: str, model: onnx.ModelProto, reference: Array) -> float:
        context = replace(self._context, model=model)
        feed = {name: np.asarray(array) for name, array in self._feed.items()}
        with quiet(), get(runtime).runner(context) as runner:
            return distance(runner.infer(feed, check_inputs=False)[self._output], reference)


def from_bodies(model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """Return a model in which the operators of these names are run from their bodies by every runtime."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    bodies = {(function.domain, function.name): function for function in model.functions}
    used = set()
    for node in changed.graph.node:
        key = node.domain, node.op_type
        if node.name in nodes and key in bodies:
            node.domain = _BODIES + node.domain
            used.add(key)
    for key in sorted(used):
        copy = changed.functions.add()
        copy.CopyFrom(bodies[key])
        copy.domain = _BODIES + copy.domain
    for domain in sorted({domain for domain, _ in used}):
        changed.opset_import.append(onnx.helper.make_opsetid(_BODIES + domain, 1))
    return changed
