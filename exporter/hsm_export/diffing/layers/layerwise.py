"""Compare runtimes layer by layer: what each node inherits, and what it gets wrong itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...comparison.error import distance, is_exact
from ...comparison.error import largest as largest_of
from ...comparison.threshold import Threshold
from ...comparison.ulps import counted_in_ulps
from ...comparison.verdict import exceeded, judge
from ...limits import Limits
from ...runtimes.runtime import RunContext
from ..results import LayerDiff
from .graph import Layer, LayerGraph
from .node_maths import NodeMaths
from .spool import Spool

Array = NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """What is compared layer by layer.

    Attributes:
        graph: the file's graph.
        context: its run context.
        case: name of the inputs.
        lengths: valid tokens of each row (B); None when all are.
    """

    graph: LayerGraph
    context: RunContext
    case: str
    lengths: Array | None = None

    def layers(
        self, reference: Spool, runtimes: Mapping[str, Spool], limits: Limits
    ) -> Iterator[tuple[Layer, list[LayerDiff]]]:
        """Yield every layer with the measurements of each runtime; only one layer's tensors are in memory at a time.

        Args:
            reference: the right tensors: the file's own maths in float64.
            runtimes: the tensors of the runtimes by name.
            limits: when to stop.

        Raises:
            LimitError: a cap was reached.
        """
        for layer in self.graph.layers:
            if not layer.outputs:
                continue
            limits.check(f"comparing layer {layer.node}")
            yield layer, self._compare(layer, reference, runtimes)

    def _compare(self, layer: Layer, reference: Spool, runtimes: Mapping[str, Spool]) -> list[LayerDiff]:
        right = {name: reference.read(name, layer.index) for name in (*layer.inputs, *layer.outputs)}
        found: list[LayerDiff] = []
        try:
            with NodeMaths(self.graph, layer, self.context, self.lengths) as maths:
                judge = _Judge(self, layer, right, maths)
                for name, spool in runtimes.items():
                    found += judge.measure(name, spool)
        except Exception:  # the float64 evaluator lacks the operator: only whole errors can be told
            judge = _Judge(self, layer, right, None)
            found = [item for name, spool in runtimes.items() for item in judge.measure(name, spool)]
        return found


class _Judge:
    """Measures one layer in one runtime after the other."""

    def __init__(
        self, comparison: Comparison, layer: Layer, right: Mapping[str, Array | None], maths: NodeMaths | None
    ) -> None:
        self._comparison = comparison
        self._graph = comparison.graph
        self._layer = layer
        self._right = right
        self._maths = maths
        self._usual: dict[str, Threshold] | None = None

    def measure(self, runtime: str, spool: Spool) -> list[LayerDiff]:
        """Return one measurement for each tensor that the layer writes and the runtime shows."""
        inputs = {name: spool.read(name, self._layer.index) for name in self._layer.inputs}
        known = {name: array for name, array in inputs.items() if array is not None}
        complete = self._maths is not None and len(known) == len(inputs)
        exact = self._maths.exact(known) if self._maths is not None and complete else {}
        found = []
        for name in self._layer.outputs:
            value, right = spool.read(name, self._layer.index), self._right[name]
            if value is None or right is None:
                continue
            item = self._total(runtime, name, value, right, in_ulps=name not in exact)
            if name in exact:
                item = self._own(item, value, right, exact, known)
            found.append(item)
        return found

    def _total(self, runtime: str, name: str, value: Array, right: Array, *, in_ulps: bool) -> LayerDiff:
        layer, precision = self._layer, self._graph.precision(name)
        found = judge(value, right, float("inf"), self._comparable(name, value))
        measured, reason = found.errors, None
        if value.shape != right.shape:
            reason = found.reason
        elif in_ulps:
            measured = counted_in_ulps(measured, value, right, self._comparable(name, value), precision)
        return LayerDiff(
            index=layer.index,
            node=layer.node,
            operator=layer.operator,
            domain=layer.domain,
            tensor=name,
            runtime=runtime,
            case=self._comparison.case,
            shape=tuple(right.shape),
            dtype=self._graph.dtype(name),
            total=measured.max_abs,
            inherited=None,
            own=None,
            amplification=None,
            threshold=None,
            errors=measured,
            reason=reason,
        )

    def _own(
        self, item: LayerDiff, value: Array, right: Array, exact: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> LayerDiff:
        """Add what the node makes of its inputs' errors, and what it adds to them."""
        name, expected = item.tensor, exact[item.tensor]
        precision = self._graph.precision(name)
        comparable = self._comparable(name, value)
        own = judge(value, expected, float("inf"), comparable, precision)
        if value.shape != expected.shape:
            return replace(item, own=float("inf"), reason=own.reason)
        if is_exact(expected) and own.reason and self._maths is not None:
            told = self._maths.told(name, inputs, exact)
            comparable = told if comparable is None else comparable & told
            own = judge(value, expected, float("inf"), comparable, precision)
        inherited = distance(expected, right, comparable) if expected.shape == right.shape else None
        limits = self._threshold(name, own.errors.max_abs, inputs, exact)
        reason = own.reason or exceeded(own.errors.max_abs, limits.value)
        by = f" by {limits.source}{f' of {limits.native_by}' if limits.source == 'native' else ''}"
        return replace(
            item,
            own=own.errors.max_abs,
            inherited=inherited,
            amplification=self._amplification(inherited, item.errors.scale, inputs),
            threshold=limits,
            errors=counted_in_ulps(own.errors, value, expected, comparable, precision),
            reason=f"own {reason}{by}" if reason and reason.startswith("error") else reason,
        )

    def _threshold(self, name: str, own: float, inputs: Mapping[str, Array], exact: Mapping[str, Array]) -> Threshold:
        """Return the threshold on the right inputs, or where that is exceeded on the runtime's, if that allows more.

        Most runtimes' inputs are so close to the right ones that one threshold serves all.
        """
        assert self._maths is not None
        if self._usual is None:
            right = {key: self._right[key] for key in self._layer.inputs}
            usual = {key: array for key, array in right.items() if array is not None}
            self._usual = self._maths.thresholds(usual, self._maths.exact(usual)) if len(usual) == len(right) else {}
        usual_threshold = self._usual.get(name)
        if usual_threshold is not None and own <= usual_threshold.value:
            return usual_threshold
        real = self._maths.thresholds(inputs, exact)[name]
        return max(real, usual_threshold or real, key=lambda item: item.value)

    def _amplification(self, inherited: float | None, scale: float, inputs: Mapping[str, Array]) -> float | None:
        """Return the relative inherited error over the largest relative error of an input."""
        largest = 0.0
        for name, array in inputs.items():
            right = self._right[name]
            if right is not None and array.dtype.kind == "f" and array.shape == right.shape:
                comparable = self._comparable(name, array)
                size = largest_of(right, comparable)
                if size > 0:
                    largest = max(largest, distance(array, right, comparable) / size)
        if inherited is None or largest == 0.0 or scale == 0.0 or not np.isfinite(largest):
            return None
        return inherited / scale / largest

    def _comparable(self, name: str, array: Array) -> NDArray[np.bool_] | None:
        """Leave out tokens beyond a row's length: (B,T,…) tensors have them at these places."""
        return self._graph.specified(name, array, self._comparison.lengths)
