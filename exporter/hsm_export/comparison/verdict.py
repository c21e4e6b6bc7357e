"""What an array's error and its threshold make of it: the same, or different, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import BY_PRECISION
from .error import Array, Errors, Mask, is_exact, measure


@dataclass(frozen=True)
class Judgement:
    """One array that was held to its reference.

    Attributes:
        errors: how far apart they are.
        reason: why they differ; None when they are the same within the threshold.
    """

    errors: Errors
    reason: str | None = None

    @property
    def how(self) -> str:
        """The reason as what follows "is off" or "differs"; "" without one."""
        reason = self.reason or ""
        return reason.replace("error", "by", 1) if reason.startswith("error") else f"({reason})" * bool(reason)


def judge(
    value: Array | None, reference: Array, allowed: float, counted: Mask | None = None, precision: str = ""
) -> Judgement:
    """Hold an array to its reference.

    Args:
        value: a runtime's array; None when it gave none.
        reference: what it should be.
        allowed: the largest absolute error that passes; integers, Booleans and strings have to be equal whatever it is.
        counted: which elements count; None for all.
        precision: the type of the file's numbers, which may overflow; "" where that is not known.
    """
    shape = np.shape(reference)
    if value is None or np.shape(value) != shape:
        what = "it is missing" if value is None else f"its shape is {np.shape(value)} instead of {shape}"
        return Judgement(Errors(max_abs=float("inf"), worst_index=(0,) * len(shape)), what)
    errors = measure(value, reference, counted)
    if is_exact(value) and is_exact(reference):
        return Judgement(errors, _unequal(errors, value, reference, counted) if errors.max_abs else None)
    if not np.isfinite(errors.max_abs):
        return Judgement(errors, _not_finite(errors, precision))
    return Judgement(errors, exceeded(errors.max_abs, allowed))


def exceeded(error: float, allowed: float) -> str | None:
    """Return the reason why an error does not pass; None where it does."""
    return None if error <= allowed else "error {}, allowed {}".format(*apart(error, allowed))


def apart(first: float, second: float, digits: int = 3) -> tuple[str, str]:
    """Return two numbers as text, with as many digits as it takes to tell them apart."""
    if isinstance(first, int) and isinstance(second, int):
        return str(first), str(second)
    for count in range(digits, 18):
        texts = f"{first:.{count}g}", f"{second:.{count}g}"
        if texts[0] != texts[1] or first == second:
            break
    return texts


def _not_finite(errors: Errors, precision: str) -> str:
    """Say what an error is that is no number."""
    if np.isinf(errors.value) and precision:
        kind = BY_PRECISION[precision]
        if abs(errors.reference) > kind.most:
            return f"overflow: {errors.reference:.6g} is beyond the largest {kind.name}, {kind.most:.6g}"
    if np.isfinite(errors.value):
        return "it is a number where the reference is NaN or infinite"
    return "it holds NaN or infinities where the reference has none"


def _unequal(errors: Errors, value: Array, reference: Array, counted: Mask | None) -> str:
    """Say how many elements of an exact type differ, and show the first one."""
    wrong = np.asarray(value) != np.asarray(reference)
    count = int((wrong if counted is None else wrong & counted).sum())
    shown: tuple[Any, Any] = value[errors.worst_index], reference[errors.worst_index]
    more = "" if count == 1 else f" ({count:,} elements differ)"
    return f"{str(shown[0])[:40]!s} instead of {str(shown[1])[:40]!s}, which has to be equal{more}"
