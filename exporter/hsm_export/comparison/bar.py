"""What every output must be in every case: the arbiter's numbers, and the threshold of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .error import Array, Mask, finite_distance, is_exact, largest
from .threshold import Threshold, explained, threshold
from .verdict import Judgement, judge

Outputs = Mapping[str, Array]
# Why a case proves nothing where the truth itself is no number.
NO_NUMBER = "is NaN even in float64: the weights or the inputs are broken"


@dataclass(frozen=True)
class Bar:
    """What one output must be in one case.

    Attributes:
        reference: the arbiter's numbers: float64, or the output's own type where that is compared exactly.
        comparable: the elements that are specified, and that native precision can tell.
        native_error: largest absolute error of native precision.
        threshold: largest absolute error allowed.
        problem: why the case proves nothing, None when it does.
        doubt: why native precision's own numbers are wrong and widen no threshold, None when they are not.
    """

    reference: Array
    comparable: Mask
    native_error: float
    threshold: Threshold
    problem: str | None = None
    doubt: str | None = None

    def judge(self, value: Array | None, rows: Mask | None = None, precision: str = "") -> Judgement:
        """Hold a runtime's numbers to it; `rows` (B,) says which rows of the batch count."""
        return judge(value, self.reference, self.threshold.value, self.counted(rows), precision)

    def widened(self, rounded: Sequence[Array]) -> Bar:
        """Return it with the numbers of further runs in which every tensor was rounded at random.

        The reference is float64 itself.
        """
        if is_exact(self.reference):
            return self
        changes = [finite_distance(np.asarray(value), self.reference, self.comparable) for value in rounded]
        return replace(self, threshold=self.threshold.widened(max(changes, default=0.0)))

    def counted(self, rows: Mask | None = None) -> Mask:
        """Return the elements that count; `rows` (B,) leaves whole rows of the batch out."""
        shape = self.comparable.shape
        if rows is None or not shape or rows.shape[0] != shape[0]:
            return self.comparable
        return self.comparable & rows.reshape((-1,) + (1,) * (len(shape) - 1))


@dataclass(frozen=True)
class Evidence:
    """One case, and what was computed of it.

    Attributes:
        arbiter: the outputs that count as right.
        natives: the outputs of each evaluation in the file's precision.
        rounded: float64 outputs, each of a run in which every tensor was rounded at random to the file's precision.
        exact: float64 outputs that errors are measured against; the arbiter's, unless that is a runtime itself or a
            file of numbers: it may be what is wrong, and must not widen its own threshold.
        specified: of each output the elements that mean something; all of those that are not named.
        ordinary: the arbiter and native precision must both give finite numbers here.
        finite: all inputs are finite, and none is empty: what NaN and infinities become is right, too, and the largest
            number of none is minus infinity.
    """

    arbiter: Outputs
    natives: Sequence[Outputs]
    rounded: Sequence[Outputs] = ()
    exact: Outputs | None = None
    specified: Mapping[str, Mask] | None = None
    ordinary: bool = True
    finite: bool = True


@dataclass(frozen=True)
class _Measured:
    """One output of one case before the cases are looked at together."""

    reference: Array
    comparable: Mask
    native: float
    condition: float
    scale: float
    problem: str | None


def bars(precision: str, cases: Sequence[Evidence], native_by: str = "", shared: str = "\0") -> list[dict[str, Bar]]:
    """Return, per case, the bar of every output.

    An error in native precision varies by luck between cases, most of all where an output has few elements. So what
    counts is the largest error of all ordinary cases, absolute or relative to the largest number, whichever is more.

    Args:
        precision: the file's.
        cases: what was computed.
        native_by: who made the native evaluations.
        shared: outputs whose names end so share their relative error: there may be dozens, each with few numbers.

    Raises:
        ValueError: the evaluations give different shapes.
    """
    raw = [{name: _measured(precision, case, name) for name in case.arbiter} for case in cases]
    typical = {kind: _Typical(kind) for kind in ("native", "condition")}
    for case, outputs in zip(cases, raw, strict=True):
        for name, item in outputs.items():
            if case.ordinary and item.scale > 0:
                for kind in typical.values():
                    kind.add(name, _key(name, shared), item)

    def bar(case: Evidence, name: str, item: _Measured) -> Bar:
        key = _key(name, shared)
        native, condition = (kind.of(name, key, item, case.ordinary) for kind in typical.values())
        doubt = None
        if case.rounded and case.ordinary and native > explained(precision, item.scale, condition):
            doubt = (
                f"errs by {native:.3g} itself, where rounding to {precision} explains "
                f"{explained(precision, item.scale, condition):.3g}: its numbers widen no tolerance"
            )
        # Huge and tiny inputs overflow and underflow on the way, which rounding does not show.
        bounded = case.ordinary and bool(case.rounded)
        told = min(native, explained(precision, item.scale, condition)) if bounded else native
        # What this case's own rounding changes, and not what that of others does: it is no matter of luck.
        own = item.condition if case.rounded else None
        limits = threshold(precision, item.scale, told, own, native_by, bounded=False)
        return Bar(item.reference, item.comparable, native, limits, item.problem, doubt)

    return [
        {name: bar(case, name, item) for name, item in outputs.items()}
        for case, outputs in zip(cases, raw, strict=True)
    ]


class _Typical:
    """The largest error of ordinary cases, absolute by output and relative by kind of output."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._absolute: dict[str, float] = {}
        self._relative: dict[str, float] = {}

    def add(self, name: str, key: str, item: _Measured) -> None:
        error = float(getattr(item, self._kind))
        self._absolute[name] = max(self._absolute.get(name, 0.0), error)
        self._relative[key] = max(self._relative.get(key, 0.0), error / item.scale)

    def of(self, name: str, key: str, item: _Measured, ordinary: bool) -> float:
        error = max(float(getattr(item, self._kind)), self._relative.get(key, 0.0) * item.scale)
        return max(error, self._absolute.get(name, 0.0)) if ordinary and item.scale > 0 else error


def _key(output: str, shared: str) -> str:
    return shared if output.endswith(shared) else output


def _measured(precision: str, case: Evidence, name: str) -> _Measured:
    reference = np.asarray(case.arbiter[name])
    right = np.asarray((case.arbiter if case.exact is None else case.exact)[name])
    if any(name not in native for native in case.natives):
        raise ValueError(f"one evaluator does not give the output {name}, which the arbiter gives")
    values = [np.asarray(native[name]) for native in case.natives]
    for value in values:
        if value.shape != reference.shape:
            raise ValueError(
                f"output {name} has shape {value.shape} in one evaluator, {reference.shape} in the arbiter"
            )
    comparable = np.ones(reference.shape, bool)
    if case.specified is not None and name in case.specified:
        comparable = comparable & case.specified[name]
    if is_exact(reference):
        # What native precision or rounding decides otherwise than float64 is a near tie: no number tells it.
        for value in (*values, *(np.asarray(run[name]) for run in case.rounded)):
            comparable = comparable & (value == right) if value.shape == right.shape else comparable
        return _Measured(reference, comparable, 0.0, 0.0, 0.0, None)
    reference = reference.astype(np.float64)
    problem = _problem(precision, case, reference, comparable, values)
    told = np.isfinite(reference)
    for value in values:
        # Masks hold infinities on purpose; what overflows in native precision alone cannot be told.
        same = told & np.isfinite(value) if not case.ordinary else np.isfinite(value) == np.isfinite(reference)
        comparable = comparable & same
    comparable = comparable & told if not case.ordinary else comparable
    native = max((finite_distance(value, right, comparable) for value in values), default=0.0)
    changed = [np.asarray(run[name]) for run in case.rounded]
    condition = max((finite_distance(value, right, comparable) for value in changed), default=0.0)
    return _Measured(reference, comparable, native, condition, largest(reference, comparable), problem)


def _problem(precision: str, case: Evidence, reference: Array, counted: Mask, natives: Sequence[Any]) -> str | None:
    """Say why a case proves nothing about an output, None when it does."""
    if not case.ordinary:
        return None
    if case.finite and np.isnan(reference[counted]).any():
        return NO_NUMBER
    if any((np.isfinite(reference) & ~np.isfinite(native))[counted].any() for native in natives):
        return f"is NaN or infinite in {precision} by itself: the model's numbers overflow that type"
    if case.finite and reference.size and not np.isfinite(reference[counted]).any() and counted.any():
        return "is infinite everywhere even in float64: the weights or the inputs are broken"
    return None
