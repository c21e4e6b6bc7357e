"""How far a tensor is from its reference: absolute, relative, and in units in the last place of the file's type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..validation.measures import largest, measure
from .results import ULP_BUCKETS, Errors

Array = NDArray[Any]

# Elements that are compared at once: bounds the memory that counting units in the last place takes.
_PIECE = 1 << 20


def errors(
    value: Array, reference: Array, comparable: NDArray[np.bool_] | None, precision: str, ulps: bool = True
) -> Errors:
    """Measure a tensor against its reference.

    Two equal infinities are no error, nor are two NaN. Any other NaN or infinity is an infinite one, and the mean error
    and the cosine are those of the other elements.

    Args:
        value: the runtime's numbers, of any type.
        reference: what they should be, of the same shape.
        comparable: which elements count; None for all.
        precision: "fp32", "fp16" or "bf16", the type whose last places are counted.
        ulps: whether to count them; integers and Booleans have none.

    Raises:
        ValueError: the shapes differ.
    """
    if value.shape != reference.shape:
        raise ValueError(f"a tensor of shape {value.shape} cannot be compared with one of shape {reference.shape}")
    counted = np.ones(value.shape, bool) if comparable is None else np.broadcast_to(comparable, value.shape)
    floating = _is_floating(value)
    value, reference = _numbers(value), _numbers(reference)
    histogram = ulp_histogram(value, reference, counted, precision) if ulps and floating else ()
    finite = np.isfinite(value) & np.isfinite(reference)
    with np.errstate(over="ignore", divide="ignore"):
        measured = measure(value, reference, counted & finite)
    wrong = counted & ~finite & ~_same(value, reference)
    broken = bool(wrong.any())
    worst = tuple(int(i) for i in np.argwhere(wrong)[0]) if broken else measured.worst_index
    return Errors(
        max_abs=float("inf") if broken else measured.max_abs,
        mean_abs=measured.mean_abs,
        max_rel=float("inf") if broken else measured.max_rel,
        cosine=measured.cosine,
        scale=largest(reference, counted & np.isfinite(reference)),
        worst_index=worst,
        value=float(value[worst]) if value.size else float("nan"),
        reference=float(reference[worst]) if value.size else float("nan"),
        ulps=histogram,
    )


def ulp_histogram(value: Array, reference: Array, comparable: NDArray[np.bool_], precision: str) -> tuple[int, ...]:
    """Return how many elements are so many units in the last place off, one number for each of `ULP_BUCKETS`.

    The last number is that of elements beyond the last bucket; a NaN where the other is none is among them.
    """
    counts = np.zeros(len(ULP_BUCKETS) + 1, np.int64)
    flat_value, flat_reference, flat_comparable = value.reshape(-1), reference.reshape(-1), comparable.reshape(-1)
    for start in range(0, flat_value.size, _PIECE):
        piece = slice(start, start + _PIECE)
        chosen = flat_comparable[piece]
        distances = ulp_distance(flat_value[piece][chosen], flat_reference[piece][chosen], precision)
        counts += np.bincount(np.searchsorted(ULP_BUCKETS, distances, side="left"), minlength=len(counts))
    return tuple(int(count) for count in counts)


def ulp_distance(value: Array, reference: Array, precision: str) -> NDArray[np.int64]:
    """Return how many steps of a type lie between numbers that are rounded to it.

    Both are rounded to the nearest number of the type, ties to even. A step leads to the next representable number:
    from zero to the smallest subnormal one, from the largest to infinity. Both zeros are one number, and so are all
    NaN; a NaN is further from any number than all numbers from each other.

    Args:
        value, reference: floating-point arrays of the same shape.
        precision: "fp32", "fp16" or "bf16".
    """
    a, b = _ordinals(value, precision), _ordinals(reference, precision)
    distance: NDArray[np.int64] = np.abs(a - b)
    nans = np.isnan(value).astype(np.int8) + np.isnan(reference).astype(np.int8)
    return np.where(nans == 2, 0, np.where(nans == 1, np.iinfo(np.int64).max, distance))


def _ordinals(array: Array, precision: str) -> NDArray[np.int64]:
    """Return the place of every number among all of its type: 0 for zero, -n for the negative of the n-th."""
    bits, width = _bits(array, precision), 32 if precision == "fp32" else 16
    magnitude = bits & ((1 << (width - 1)) - 1)
    return np.where(bits >> (width - 1), -magnitude, magnitude)


def _bits(array: Array, precision: str) -> NDArray[np.int64]:
    """Return the bit patterns of numbers rounded to a type."""
    with np.errstate(over="ignore", invalid="ignore"):
        if precision == "fp32":
            return array.astype(np.float32).view(np.uint32).astype(np.int64)
        if precision == "fp16":
            return array.astype(np.float16).view(np.uint16).astype(np.int64)
        return _bfloat16_bits(array.astype(np.float64))


def _bfloat16_bits(array: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round doubles to bfloat16; through float32 on the way, rounded to odd so that no number is rounded twice."""
    narrow = array.astype(np.float32)
    bits = narrow.view(np.uint32).astype(np.int64)
    inexact = narrow.astype(np.float64) != array
    too_large = np.abs(narrow.astype(np.float64)) > np.abs(array)
    # Toward zero first, then the last bit set wherever something was lost.
    odd = np.where(inexact & ~np.isnan(array), (bits - too_large) | 1, bits)
    rounded = (odd + 0x7FFF + ((odd >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded)


def _is_floating(array: Array) -> bool:
    return array.dtype.kind == "f" or _is_foreign(array)


def _is_foreign(array: Array) -> bool:
    """Whether the type is one of `ml_dtypes`, such as bfloat16, which NumPy cannot compute with everywhere."""
    return array.dtype.kind == "V"


def _numbers(array: Array) -> Array:
    if _is_foreign(array):
        return array.astype(np.float32)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _same(value: Array, reference: Array) -> NDArray[np.bool_]:
    """Return where both are the same infinity, or both NaN."""
    same: NDArray[np.bool_] = (value == reference) | (np.isnan(value) & np.isnan(reference))
    return same
