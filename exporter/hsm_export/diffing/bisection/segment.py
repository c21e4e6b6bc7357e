"""The smallest sub-graph that a runtime gets wrong as a whole, where none of its nodes is wrong alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...comparison.error import distance, finite_distance, largest
from ...comparison.rounding import rounded
from ...comparison.threshold import threshold
from ...runtimes import get
from ...runtimes.runtime import RunContext
from ..layers.graph import LayerGraph
from ..layers.tapping import single

Array = NDArray[Any]
_ROUNDINGS = 3
# Nodes of which each is left out in turn, to see whether it is needed.
_TRIED_ALONE = 64


@dataclass(frozen=True)
class Segment:
    """Nodes that are wrong together.

    Attributes:
        indices: their positions in the graph.
        nodes: their names and operators.
        model: they alone, as a model of their own.
        inputs, expected: what they read, and what they should write, by tensor name.
        error, allowed: of the tensor that is furthest beyond what rounding explains.
        runs: how many sub-graphs were run.
    """

    indices: tuple[int, ...]
    nodes: tuple[tuple[str, str], ...]
    model: onnx.ModelProto
    inputs: dict[str, Array]
    expected: dict[str, Array]
    error: float
    allowed: float
    runs: int


class SegmentSearch:
    """Looks for a sub-graph that fails on the right inputs.

    A sub-graph fails where a result is further from the right one than what is explained by rounding its inputs, and
    by running its nodes one by one. Halving finds the shortest beginning of the graph that fails, then the shortest
    end of that; then nodes are left out one by one.

    Args:
        context: what is run; its model is the graph's.
        graph: the graph.
        runtime: name of the runtime that is wrong.
        good: all tensors, right.
        alone: all tensors as the runtime makes them, its nodes run one by one.
        progress: receives the phase in words.
    """

    def __init__(
        self,
        context: RunContext,
        graph: LayerGraph,
        runtime: str,
        good: Mapping[str, Array],
        alone: Mapping[str, Array],
        progress: Callable[[str], None],
    ) -> None:
        self._context = context
        self._graph = graph
        self._runtime = get(runtime)
        self._good = good
        self._alone = alone
        self._progress = progress
        self._positions = [layer.index for layer in graph.layers]
        self._runs = 0

    def run(self) -> Segment | None:
        """Return the sub-graph; None where not even all nodes together fail."""
        self._progress("looking for a sub-graph that fails")
        if not self._fails(self._positions):
            return None
        passing, end = 1, len(self._positions)
        while end - passing > 1:
            middle = (passing + end) // 2
            passing, end = (passing, middle) if self._fails(self._positions[:middle]) else (middle, end)
        begin, failing = end - 1, 0
        while begin - failing > 1:
            middle = (begin + failing) // 2
            begin, failing = (begin, middle) if self._fails(self._positions[middle:end]) else (middle, failing)
        kept = self._positions[failing:end]
        for index in list(kept) if len(kept) <= _TRIED_ALONE else ():
            fewer = [other for other in kept if other != index]
            if len(kept) > 2 and self._fails(fewer):
                kept = fewer
        error, allowed = self._worst(kept)
        inputs, writes = self._borders(kept)
        model = self._graph.extract(kept, writes)
        expected = {name: self._good[name] for name in writes}
        layers = [self._graph.layer_at[index] for index in kept]
        nodes = tuple((layer.node, layer.operator) for layer in layers)
        return Segment(tuple(kept), nodes, model, inputs, expected, error, allowed, self._runs)

    def _fails(self, indices: Sequence[int]) -> bool:
        if len(indices) < 2:
            return False  # a single node was tried alone
        error, allowed = self._worst(indices)
        return error > allowed

    def _borders(self, indices: Sequence[int]) -> tuple[dict[str, Array], tuple[str, ...]]:
        reads, writes = self._graph.borders(indices)
        return {name: np.asarray(self._good[name]) for name in reads}, tuple(n for n in writes if n in self._good)

    def _worst(self, indices: Sequence[int]) -> tuple[float, float]:
        """Return error and threshold of the result that is furthest beyond its threshold; 0 where nothing is run."""
        self._runs += 1
        inputs, writes = self._borders(indices)
        if not writes:
            return 0.0, 0.0
        model = self._graph.extract(indices, writes)
        try:
            given = single(self._runtime, self._context, model, inputs)
        except Exception:  # a sub-graph that the runtime does not take says nothing
            return 0.0, 0.0
        found = [(distance(given[name], self._good[name]), name) for name in writes]
        if not any(error for error, _ in found):
            return 0.0, 0.0
        changed = self._changes(model, inputs, writes)
        pairs = [(error, self._allowed(name, changed.get(name, 0.0))) for error, name in found]
        return max(pairs, key=lambda pair: pair[0] / pair[1] if pair[1] else (np.inf if pair[0] else 0.0))

    def _changes(self, model: onnx.ModelProto, inputs: Mapping[str, Array], writes: Sequence[str]) -> dict[str, float]:
        """Return how much each result changes in float64 when the inputs are rounded at random."""
        context = replace(self._context, summation=0)
        exact = get("onnx64")
        try:
            right = single(exact, context, model, inputs)
            moved = [
                single(exact, context, model, rounded(inputs, self._graph.precision, d)) for d in range(_ROUNDINGS)
            ]
        except Exception:  # the other terms remain
            return {}
        return {name: max(finite_distance(run[name], right[name]) for run in moved) for name in writes}

    def _allowed(self, name: str, condition: float) -> float:
        right = np.asarray(self._good[name])
        native = finite_distance(self._alone[name], right) if name in self._alone else 0.0
        precision = self._graph.precision(name)
        return threshold(precision, largest(right), native, condition, bounded=False).value
