"""How far an array is from its reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]
# Of a type's largest number, which masks hold for infinity, as numbers of a coarser type may hold it.
_EDGE = 2.0**-8


@dataclass(frozen=True)
class Errors:
    """One array against its reference, over the elements that count.

    Attributes:
        max_abs: largest absolute error; infinite where one side has a NaN or an infinity that the other has not.
        mean_abs, max_rel, cosine: absolute and relative errors and cosine similarity of the finite elements.
        scale: max|reference| of the finite elements.
        worst_index: the element with the largest error, or the first wrong NaN or infinity.
        value, reference: both numbers there; NaN where they are no numbers, as strings.
        ulps: number of elements whose error in units in the last place is at most that of `ulps.BUCKETS`, one number
            a bucket, and one more for what lies beyond; () where it was not counted.
        compared: number of elements that count.
    """

    max_abs: float = 0.0
    mean_abs: float = 0.0
    max_rel: float = 0.0
    cosine: float = 1.0
    scale: float = 0.0
    worst_index: tuple[int, ...] = ()
    value: float = float("nan")
    reference: float = float("nan")
    ulps: tuple[int, ...] = ()
    compared: int = 0


def measure(value: Array, reference: Array, counted: Mask | None = None) -> Errors:
    """Measure an array against its reference.

    Integers, Booleans and strings are compared in their own type. Equal infinities are equal, and so are two NaN. Where
    the reference is infinite, the type's largest number counts as infinite too: masks are written in either way.

    Args:
        value: a runtime's array, of any type.
        reference: what it should be, of the same shape.
        counted: which elements count, broadcastable to both; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    value, reference = _plain(value), _plain(reference)
    if value.shape != reference.shape:
        raise ValueError(f"an array of shape {value.shape} cannot be compared with one of shape {reference.shape}")
    counts = np.ones(value.shape, bool) if counted is None else np.broadcast_to(counted, value.shape)
    if not counts.any():
        return Errors(worst_index=(0,) * value.ndim)
    if is_exact(value) and is_exact(reference):
        return _exact(value, reference, counts)
    return _inexact(value, reference, counts)


def distance(value: Array, reference: Array, counted: Mask | None = None) -> float:
    """Return the largest absolute error, infinite where the shapes differ."""
    value, reference = _plain(value), _plain(reference)
    if value.shape != reference.shape:
        return float("inf")
    if not (is_exact(value) and is_exact(reference)):
        gaps = _gaps(_doubles(value), _doubles(reference))
        if np.isfinite(gaps).all():
            return float(gaps.max(initial=0.0, where=True if counted is None else np.broadcast_to(counted, gaps.shape)))
    return measure(value, reference, counted).max_abs


def finite_distance(value: Array, reference: Array, counted: Mask | None = None) -> float:
    """Return the largest absolute error of the elements that are finite on both sides; 0 where the shapes differ.

    This is the error that rounding makes: an overflow widens nobody's tolerance.
    """
    value, reference = _plain(value), _plain(reference)
    if value.shape != reference.shape or is_exact(value) or is_exact(reference):
        return 0.0
    value, reference = _doubles(value), _doubles(reference)
    gaps = _gaps(value, reference)
    counts = True if counted is None else np.broadcast_to(counted, gaps.shape)
    if not np.isfinite(gaps).all():
        counts = np.isfinite(value) & np.isfinite(reference) & counts
    return float(gaps.max(initial=0.0, where=counts))


def largest(reference: Array, counted: Mask | None = None) -> float:
    """Return max|reference| of the finite elements that count; 0 for types that are compared exactly."""
    reference = _plain(reference)
    if is_exact(reference):
        return 0.0
    finite = np.isfinite(reference) if counted is None else np.isfinite(reference) & counted
    return float(np.abs(np.where(finite, reference, 0.0)).max(initial=0.0))


def is_exact(array: Array) -> bool:
    """Whether an array is of a type whose elements are equal or wrong: integers, Booleans, strings."""
    return _plain(array).dtype.kind not in "fc"


def _exact(value: Array, reference: Array, counts: Mask) -> Errors:
    with np.errstate(all="ignore"):
        wrong = np.asarray(value != reference) & counts
    numeric = value.dtype.kind in "iub" and reference.dtype.kind in "iub"
    if numeric:
        # As doubles two large integers may be equal: then they are at least 1 apart.
        gaps = np.abs(value.astype(np.float64) - reference.astype(np.float64))
        gaps = np.where(wrong, np.maximum(gaps, 1.0), 0.0)
    else:
        gaps = np.where(wrong, np.inf, 0.0)
    # Where nothing is wrong, some element that counts: the others may differ.
    worst = _place(int(np.argmax(gaps if wrong.any() else counts)), gaps)
    found = value[worst], reference[worst]
    numbers = [int(item) if numeric else float("nan") for item in found]
    largest_gap = float(abs(numbers[0] - numbers[1])) if numeric else float(gaps[worst])
    return Errors(
        max_abs=largest_gap,
        mean_abs=float(gaps.sum() / counts.sum()),
        max_rel=float("inf") if wrong.any() else 0.0,
        cosine=float("nan") if wrong.any() else 1.0,
        worst_index=worst,
        compared=int(counts.sum()),
        value=numbers[0],
        reference=numbers[1],
    )


def _inexact(value: Array, reference: Array, counts: Mask) -> Errors:
    edge = np.finfo(value.dtype).max * (1 - _EDGE) if value.dtype.kind == "f" else np.inf
    value, reference = _doubles(value), _doubles(reference)
    compared = int(counts.sum())
    a, b, finite = value, reference, compared
    wrong, error = np.zeros((), bool), _gaps(a, b)
    if compared < value.size or not np.isfinite(error).all():
        comparable = np.isfinite(value) & np.isfinite(reference) & counts
        a, b, finite = np.where(comparable, value, 0.0), np.where(comparable, reference, 0.0), int(comparable.sum())
        error = _gaps(a, b)
        same = (value == reference) | (np.isnan(value) & np.isnan(reference))
        with np.errstate(invalid="ignore"):
            same |= np.isinf(reference) & (value * np.sign(reference) >= edge)
        wrong = counts & ~comparable & ~same
    broken = bool(wrong.any())
    worst = _place(int(np.argmax(wrong if broken else error)), error)
    size = np.abs(b)
    with np.errstate(over="ignore", invalid="ignore"):
        relative = np.divide(error, size, out=np.zeros_like(error), where=size != 0)
    return Errors(
        max_abs=float("inf") if broken else float(error.max()),
        mean_abs=float(error.sum() / max(finite, 1)),
        max_rel=float("inf") if broken else float(relative.max()),
        cosine=_cosine(a, b),
        scale=float(size.max()),
        worst_index=worst,
        compared=compared,
        value=_number(value[worst]),
        reference=_number(reference[worst]),
    )


def _place(flat: int, array: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, array.shape))


def _number(item: Any) -> float:
    return float(item) if not np.iscomplexobj(item) else float("nan")


def _plain(array: Any) -> Array:
    """Return an array of a type that NumPy computes with: those of `ml_dtypes` have kind "V"."""
    plain: Array = np.asarray(array)
    if plain.dtype.kind == "V":
        # Of "int4", "uint4", "bfloat16", "float8_e4m3fn", ….
        plain = plain.astype({"i": np.int8, "u": np.uint8}.get(plain.dtype.name[0], np.float32))
    return plain


def _doubles(array: Array) -> Array:
    return np.asarray(array if array.dtype.kind == "c" else array.astype(np.float64))


def _gaps(value: Array, reference: Array) -> Array:
    """Return |value - reference| of every element."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.abs(value - reference))


def _cosine(value: Array, reference: Array) -> float:
    scales = [float(np.abs(array).max()) for array in (value, reference)]
    if 0.0 in scales:
        return 1.0 if scales[0] == scales[1] else 0.0
    a, b = value.ravel(), reference.ravel()
    if min(scales) < 1e-50 or max(scales) > 1e50:  # squares of huge and of tiny numbers are none
        a, b = a / scales[0], b / scales[1]
    return float(np.vdot(b, a).real / np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real))
