"""Errors in units in the last place of a floating-point type."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import BY_PRECISION
from .error import Errors, Mask, is_exact, measure

Array = NDArray[Any]

# Upper bounds of the histogram's buckets in units in the last place; what lies beyond the last one has a bucket too.
BUCKETS = (0, 1, 2, 4, 8, 16, 64, 256, 1024, 4096, 65536)
# Elements that are compared at once: bounds the memory that counting units in the last place takes.
_PIECE = 1 << 20
_FURTHEST = np.iinfo(np.int64).max


def counted_in_ulps(errors: Errors, value: Array, reference: Array, counted: Mask | None, precision: str) -> Errors:
    """Add the histogram of units in the last place; types that are compared exactly have none.

    Args:
        errors: what was measured of these arrays, whose shapes are the same.
        value, reference, counted: as of `error.measure`.
        precision: "fp32", "fp16", "bf16" or "fp64", the type whose last places are counted.
    """
    if is_exact(value) or is_exact(reference) or np.iscomplexobj(value):
        return errors
    mask = np.ones(np.shape(value), bool) if counted is None else np.broadcast_to(counted, np.shape(value))
    return replace(errors, ulps=ulp_histogram(_numbers(value), _numbers(reference), mask, precision))


def measure_in_ulps(value: Array, reference: Array, counted: Mask | None, precision: str) -> Errors:
    """Measure an array against its reference, units in the last place included.

    Raises:
        ValueError: the shapes differ.
    """
    return counted_in_ulps(measure(value, reference, counted), value, reference, counted, precision)


def ulp_histogram(value: Array, reference: Array, comparable: NDArray[np.bool_], precision: str) -> tuple[int, ...]:
    """Return how many elements are so many units in the last place off, one number for each of `BUCKETS`.

    The last number is that of elements beyond the last bucket; a NaN where the other is none is among them.
    """
    counts = np.zeros(len(BUCKETS) + 1, np.int64)
    flat_value, flat_reference, flat_comparable = value.reshape(-1), reference.reshape(-1), comparable.reshape(-1)
    for start in range(0, flat_value.size, _PIECE):
        piece = slice(start, start + _PIECE)
        chosen = flat_comparable[piece]
        distances = ulp_distance(flat_value[piece][chosen], flat_reference[piece][chosen], precision)
        counts += np.bincount(np.searchsorted(BUCKETS, distances, side="left"), minlength=len(counts))
    return tuple(int(count) for count in counts)


def ulp_distance(value: Array, reference: Array, precision: str) -> NDArray[np.int64]:
    """Return how many steps of a type lie between numbers that are rounded to it.

    Both are rounded to the nearest number of the type, ties to even. A step leads to the next representable number:
    from zero to the smallest subnormal one, from the largest to infinity. Both zeros are one number, and so are all
    NaN; a NaN is further from any number than all numbers from each other.

    Args:
        value, reference: floating-point arrays of the same shape.
        precision: "fp32", "fp16", "bf16" or "fp64".
    """
    a, b = _ordinals(value, precision), _ordinals(reference, precision)
    distance: NDArray[np.int64] = np.abs(a - b)
    # Doubles of opposite signs may be further apart than an int64 counts.
    distance = np.where(distance < 0, _FURTHEST, distance)
    nans = np.isnan(value).astype(np.int8) + np.isnan(reference).astype(np.int8)
    return np.where(nans == 2, 0, np.where(nans == 1, _FURTHEST, distance))


def _ordinals(array: Array, precision: str) -> NDArray[np.int64]:
    """Return the place of every number among all of its type: 0 for zero, -n for the negative of the n-th."""
    bits, width = _bits(array, precision), BY_PRECISION[precision].bits
    magnitude = bits & ((1 << (width - 1)) - 1)
    return np.where(bits >> (width - 1) & 1, -magnitude, magnitude)


def _bits(array: Array, precision: str) -> NDArray[np.int64]:
    """Return the bit patterns of numbers rounded to a type."""
    with np.errstate(over="ignore", invalid="ignore"):
        if precision == "fp64":
            return array.astype(np.float64).view(np.int64)
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


def _numbers(array: Array) -> Array:
    """Return an array in a type that NumPy computes with everywhere: float32 holds every number of smaller ones."""
    array = np.asarray(array)
    return array if array.dtype.kind == "f" else array.astype(np.float32 if array.dtype.kind == "V" else np.float64)
