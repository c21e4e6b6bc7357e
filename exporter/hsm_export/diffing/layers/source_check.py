"""Hold the file's own maths to its PyTorch source, unit by unit: what did the export get wrong?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dtypes import EPSILON
from ...runtimes import get
from ...runtimes.runtime import RunContext
from ...validation.measures import FACTOR, FLOOR
from ..limits import Limits
from ..measuring import errors
from ..results import LayerDiff, Threshold
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
            rounded = [self._exact(unit, self._rounded(inputs, draw)) for draw in range(_ROUNDINGS)]
        except Exception:  # shapes or operators that do not fit: the unit is not what its name says
            return
        for position, name in enumerate(unit.writes):
            right = source.read(unit.result(position))
            if name not in writes or right is None or right.dtype.kind != "f" or right.size != exact[name].size:
                continue
            value = exact[name].reshape(right.shape)
            precision = self._precision(unit)
            counted = self.graph.specified(name, right, self.lengths)
            measured = errors(value, right, counted, precision)
            floor = FLOOR * EPSILON[precision] * measured.scale
            condition = FACTOR * max(_distance(item[name], exact[name]) for item in rounded)
            native = 0.0
            if measured.max_abs > max(floor, condition):
                native = FACTOR * self._native(unit, position, right)
            threshold = Threshold(max(floor, condition, native), native, "torch" if native else "", condition, floor)
            yield self._layer(unit, name, right, measured, threshold)

    def _precision(self, unit: Unit) -> str:
        """Return the coarsest type that the unit reads, writes or has weights of."""
        names = {name for index in unit.indices for name in self.graph.model.graph.node[index].input}
        kinds = {self.graph.precision(name) for name in (*names, *unit.writes) if name}
        return max(kinds or {"fp32"}, key=lambda kind: EPSILON[kind])

    def _native(self, unit: Unit, position: int, right: Array) -> float:
        """Return what the source's own result in the file's precision is off, its inputs' errors included."""
        value = self.native().read(unit.result(position))
        return _distance(value, right) if value is not None and value.shape == right.shape else 0.0

    def _exact(self, unit: Unit, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return single(get("onnx64"), self.context, self.graph.extract(unit.indices, unit.writes), inputs)

    def _rounded(self, inputs: Mapping[str, Array], draw: int) -> dict[str, Array]:
        rng = np.random.default_rng(draw)
        moved = {}
        for name, array in inputs.items():
            signs = rng.integers(0, 2, array.shape, np.int8) * 2.0 - 1.0
            half = EPSILON[self.graph.precision(name)] / 2
            moved[name] = array * (1.0 + half * signs) if array.dtype.kind == "f" else array
        return moved

    def _layer(self, unit: Unit, name: str, right: Array, measured: Any, threshold: Threshold) -> LayerDiff:
        reason = None
        if measured.max_abs > threshold.value:
            reason = (
                f"the file's maths differs from the source's by {measured.max_abs:.3g}, "
                f"allowed {threshold.value:.3g} by {threshold.source}"
            )
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
            threshold=threshold,
            errors=measured,
            reason=reason,
        )


def innermost(layers: Iterable[LayerDiff], units: Iterable[Unit]) -> list[LayerDiff]:
    """Return the measurements at fault that are not explained by one inside them."""
    found = [item for item in layers if not item.passed]
    indices = {(unit.name, unit.single): set(unit.indices) for unit in units}
    inside = [indices[item.node, bool(item.domain)] for item in found]
    return [item for item, own in zip(found, inside, strict=True) if not any(other < own for other in inside)]


def _distance(value: Array, exact: Array) -> float:
    with np.errstate(all="ignore"):
        error = np.abs(np.asarray(value, np.float64) - np.asarray(exact, np.float64).reshape(np.shape(value)))
    return float(error[np.isfinite(error)].max(initial=0.0))
