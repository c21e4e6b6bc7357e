"""How far an array may be from its reference."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..dtypes import EPSILON

FLOOR = 4.0  # units in the last place of the tensor's largest number
FACTOR = 2.0  # times the error that native precision makes
# What native error may be in units of the other terms, before it is the native evaluation that errs; and what long
# sums in float32 may add to that, in units in the last place.
_EXPLAINED, _SUMS = 16.0, 1024.0
# What is lost where results underflow: processors and GPUs may flush numbers below the smallest normal one to zero.
_UNDERFLOW = {"fp64": 2.0**-1022, "fp32": 2.0**-126, "bf16": 2.0**-126, "fp16": 2.0**-22}


@dataclass(frozen=True)
class Threshold:
    """The largest error allowed, and where it comes from: the largest of its terms.

    Attributes:
        value: largest absolute error allowed.
        native: twice the error that native precision makes on the same inputs, as far as the type explains it.
        native_by: who was measured: "torch" or "onnx-reference", "" when neither can run it.
        condition: twice the change of the float64 result when numbers are rounded at random in the file's precision.
        floor: 4 eps(T) max|reference|, or what underflow loses.
    """

    value: float
    native: float
    native_by: str
    condition: float
    floor: float

    def widened(self, condition_error: float) -> Threshold:
        """Return it where random roundings change the result by so much at least."""
        condition = max(self.condition, FACTOR * condition_error)
        return replace(self, value=max(self.value, condition), condition=condition)

    @property
    def source(self) -> str:
        """Which term decided: "native", "condition" or "floor"."""
        terms = {"native": self.native, "condition": self.condition, "floor": self.floor}
        return max(terms, key=lambda name: terms[name])


def threshold(
    precision: str,
    scale: float,
    native_error: float = 0.0,
    condition_error: float | None = None,
    native_by: str = "",
    *,
    bounded: bool = True,
) -> Threshold:
    """Return the threshold of an array.

    Args:
        precision: "fp32", "fp16", "bf16" or "fp64", the type T of its numbers.
        scale: max|reference|; 0 for types that are compared exactly.
        native_error: the largest error of evaluations in T.
        condition_error: how much random rounding to T changes the result in float64; None where that is not known.
        native_by: whose error the native one is.
        bounded: what the condition does not explain of the native error is no licence.
    """
    if bounded and condition_error is not None:
        native_error = min(native_error, explained(precision, scale, condition_error))
    native, condition = FACTOR * native_error, FACTOR * (condition_error or 0.0)
    floor = max(FLOOR * EPSILON[precision] * scale, _UNDERFLOW[precision] if scale else 0.0)
    return Threshold(max(native, condition, floor), native, native_by, condition, floor)


def explained(precision: str, scale: float, condition_error: float) -> float:
    """Return the largest native error that rounding to a type explains."""
    rounding = max(condition_error, FLOOR * EPSILON[precision] * scale)
    return _EXPLAINED * rounding + _SUMS * min(EPSILON[precision], EPSILON["fp32"]) * scale


def coarser(*precisions: str) -> str:
    """Return the precision with the fewest digits."""
    return max(precisions, key=lambda name: EPSILON[name])
