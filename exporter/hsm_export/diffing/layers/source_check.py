"""Hold the file's own maths to its PyTorch source, unit by unit: what did the export get wrong?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from ...comparison.error import finite_distance, largest
from ...comparison.rounding import rounded
from ...comparison.threshold import Threshold, coarser, threshold
from ...comparison.ulps import counted_in_ulps
from ...comparison.verdict import Judgement, judge
from ...limits import Limits
from ...runtimes import get
from ...runtimes.runtime import RunContext
from ..results import LayerDiff
from .alignment import Unit
from .graph import LayerGraph
from .spool import Spool
from .tapping import single

Array = NDArray[Any]

_ROUNDINGS = 2


@dataclass(frozen=True)
class SourceCheck:
    """What is checked.

    Attributes:
        graph: the file's graph.
        context: its run context, with the source.
        case: name of the inputs.
        native: returns the source's tensors in the file's precision; called only where weights were rounded.
        lengths: (B) valid tokens of each row; None when all are.
    """

    graph: LayerGraph
    context: RunContext
    case: str
    native: Callable[[], Spool]
    lengths: Array | None = None

    def layers(self, units: Iterable[Unit], source: Spool, limits: Limits) -> Iterator[LayerDiff]:
        """Yield a measurement of every unit whose inputs are known: the file's maths in float64 on the source's inputs.

        Args:
            units: what `alignment.record` saw.
            source: the source's tensors in float64.
            limits: when to stop.
        """
        for unit in units:
            limits.check(f"comparing {unit.name} with the source")
            inputs = self.inputs_of(unit, source)
            if inputs is not None:
                yield from self._compare(unit, inputs, source)

    def inputs_of(self, unit: Unit, source: Spool) -> dict[str, Array] | None:
        """Return what the source fed to a unit, None where that is not known."""
        found = {}
        for name in unit.reads:
            array = self._argument(unit, name, source)
            if array is None:
                return None
            found[name] = array
        return found

    def _argument(self, unit: Unit, name: str, source: Spool) -> Array | None:
        if unit.single:
            node = self.graph.model.graph.node[unit.indices[0]]
            return source.read(unit.argument(list(node.input).index(name)))
        if len(unit.reads) == 1 and unit.argument(1) not in source:
            array = source.read(unit.argument(0))
            if array is not None:
                return array
        return source.read(name)

    def _compare(self, unit: Unit, inputs: Mapping[str, Array], source: Spool) -> Iterator[LayerDiff]:
        writes = [name for name in unit.writes if self.graph.precision(name)]
        try:
            exact = self._exact(unit, inputs)
            moved = [rounded(inputs, self.graph.precision, draw) for draw in range(_ROUNDINGS)]
            results = [self._exact(unit, of_draw) for of_draw in moved]
        except Exception:  # shapes or operators that do not fit: the unit is not what its name says
            return
        for position, name in enumerate(unit.writes):
            right = source.read(unit.result(position))
            if name not in writes or right is None or right.dtype.kind != "f" or right.size != exact[name].size:
                continue
            value = exact[name].reshape(right.shape)
            precision = self._precision(unit)
            counted = self.graph.specified(name, right, self.lengths)
            condition = max(finite_distance(item[name], exact[name]) for item in results)
            scale = largest(right, counted)
            limits = threshold(precision, scale, 0.0, condition)
            found = judge(value, right, limits.value, counted)
            if found.reason:
                limits = threshold(precision, scale, self._native(unit, position, right), condition, "torch")
                found = judge(value, right, limits.value, counted)
            measured = counted_in_ulps(found.errors, value, right, counted, precision)
            yield self._layer(unit, name, right, replace(found, errors=measured), limits)

    def _precision(self, unit: Unit) -> str:
        """Return the coarsest type that the unit reads, writes or has weights of."""
        names = {name for index in unit.indices for name in self.graph.model.graph.node[index].input}
        kinds = {self.graph.precision(name) for name in (*names, *unit.writes) if name}
        return coarser(*(kinds or {"fp32"}))

    def _native(self, unit: Unit, position: int, right: Array) -> float:
        """Return what the source's own result in the file's precision is off, its inputs' errors included."""
        value = self.native().read(unit.result(position))
        return finite_distance(value, right) if value is not None else 0.0

    def _exact(self, unit: Unit, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return single(get("onnx64"), self.context, self.graph.extract(unit.indices, unit.writes), inputs)

    def _layer(self, unit: Unit, name: str, right: Array, found: Judgement, limits: Threshold) -> LayerDiff:
        measured = found.errors
        reason = found.reason
        if reason:
            reason = f"the file's maths differs from the source's {found.how} by {limits.source}"
        node = self.graph.model.graph.node[unit.indices[-1]]
        return LayerDiff(
            index=unit.indices[-1],
            node=unit.name,
            operator=unit.operator,
            domain=node.domain if unit.single else "",
            tensor=name,
            runtime="onnx64",
            case=self.case,
            shape=tuple(right.shape),
            dtype=self.graph.dtype(name),
            total=measured.max_abs,
            inherited=0.0,
            own=measured.max_abs,
            amplification=None,
            threshold=limits,
            errors=measured,
            reason=reason,
        )


def innermost(layers: Iterable[LayerDiff], units: Iterable[Unit]) -> list[LayerDiff]:
    """Return the measurements at fault that are not explained by one inside them."""
    found = [item for item in layers if not item.passed]
    indices = {(unit.name, unit.single): set(unit.indices) for unit in units}
    inside = [indices[item.node, bool(item.domain)] for item in found]
    return [item for item, own in zip(found, inside, strict=True) if not any(other < own for other in inside)]
