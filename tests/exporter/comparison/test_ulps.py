"""Errors of tensors, and their units in the last place against oracles that count bit patterns."""

from __future__ import annotations

import bisect
import itertools
import math
import struct
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_export.comparison.ulps import BUCKETS, measure_in_ulps, ulp_distance, ulp_histogram

INF, NAN = float("inf"), float("nan")
_TYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
_SMALLEST = {"fp32": 2.0**-149, "fp16": 2.0**-24, "bf16": 2.0**-133}
_LARGEST = {"fp32": (2 - 2.0**-23) * 2.0**127, "fp16": 65504.0, "bf16": (2 - 2.0**-7) * 2.0**127}
_DIGITS = {"fp32": 24, "fp16": 11, "bf16": 8}


def test_counts_what_every_field_says() -> None:
    reference = np.array([[1.0, -2.0], [0.0, 4.0]])
    value = np.array([[1.0, -2.5], [0.25, 4.0]], np.float32)
    found = measure_in_ulps(value, reference, None, "fp32")
    assert (found.max_abs, found.mean_abs, found.max_rel, found.scale) == (0.5, 0.1875, 0.25, 4.0)
    assert (found.worst_index, found.value, found.reference) == ((0, 1), -2.5, -2.0)
    assert 0.9 < found.cosine < 1.0
    assert (sum(found.ulps), found.ulps[0], found.ulps[-1]) == (4, 2, 2)


def test_leaves_out_what_cannot_be_compared() -> None:
    value, reference = np.array([1.0, 99.0, NAN]), np.array([1.0, 1.0, 1.0])
    found = measure_in_ulps(value, reference, np.array([True, False, False]), "fp32")
    assert (found.max_abs, found.scale, found.ulps) == (0.0, 1.0, (1,) + (0,) * len(BUCKETS))


@pytest.mark.parametrize(
    ("value", "reference"), [(NAN, 1.0), (INF, 1.0), (1.0, NAN), (1.0, -INF), (INF, -INF), (NAN, INF)]
)
def test_names_the_first_wrong_infinity(value: float, reference: float) -> None:
    found = measure_in_ulps(np.array([5.0, value, 1.0]), np.array([1.0, reference, 1.0]), None, "fp32")
    assert (found.max_abs, found.max_rel, found.worst_index) == (INF, INF, (1,))
    assert str(found.value) == str(value) and str(found.reference) == str(reference)
    assert found.mean_abs > 0 and math.isfinite(found.cosine)


def test_takes_equal_infinities_as_equal() -> None:
    both = np.array([INF, -INF, NAN, 2.0])
    found = measure_in_ulps(both, both, None, "fp16")
    assert (found.max_abs, found.scale, found.ulps[0]) == (0.0, 2.0, 4)


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_takes_scalars_and_empty_tensors(shape: tuple[int, ...]) -> None:
    found = measure_in_ulps(np.zeros(shape, np.float32), np.zeros(shape), None, "fp32")
    assert found.max_abs == 0.0 and sum(found.ulps) == math.prod(shape)


def test_counts_no_last_places_of_integers() -> None:
    assert measure_in_ulps(np.arange(3), np.arange(3), None, "fp32").ulps == ()
    assert measure_in_ulps(np.array([True]), np.array([False]), None, "fp32").max_abs == 1.0


def test_reads_bfloat16_and_refuses_other_shapes() -> None:
    found = measure_in_ulps(np.array([1.0078125], ml_dtypes.bfloat16), np.array([1.0]), None, "bf16")
    assert found.max_abs == 2.0**-7 and found.ulps[:2] == (0, 1)
    with pytest.raises(ValueError, match="shape"):
        measure_in_ulps(np.zeros(2), np.zeros(3), None, "fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_counts_across_zero_and_at_the_ends(precision: str) -> None:
    smallest, largest = _SMALLEST[precision], _LARGEST[precision]
    pairs = [(0.0, -0.0, 0), (smallest, 0.0, 1), (smallest, -smallest, 2), (largest, INF, 1), (INF, INF, 0)]
    for a, b, distance in pairs:
        assert ulp_distance(np.array([a]), np.array([b]), precision)[0] == distance
    assert ulp_distance(np.array([NAN]), np.array([NAN]), precision)[0] == 0
    furthest = ulp_distance(np.array([-INF]), np.array([INF]), precision)[0]
    assert ulp_distance(np.array([NAN]), np.array([INF]), precision)[0] > furthest


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_distance_is_that_in_a_list_of_all_numbers(precision: str) -> None:
    """The oracle counts in the sorted list of every number of the type, and rounds by looking for the nearest one."""
    with np.errstate(invalid="ignore"):
        every = np.arange(1 << 16, dtype=np.uint16).view(_TYPES[precision]).astype(np.float64)
    numbers = sorted(set(every[np.isfinite(every)].tolist()))
    rng = np.random.default_rng(0)
    exact = rng.choice(numbers, 400)
    between = np.sort(rng.choice(len(numbers) - 1, 400))
    halves = [(numbers[i] + numbers[i + 1]) / 2 for i in between]  # exact ties
    above = [float(np.nextafter(half, INF)) for half in halves]
    points = np.array([*exact, *halves, *above])
    other = rng.permutation(points)
    distances = ulp_distance(points, other, precision)
    for a, b, distance in zip(points, other, distances, strict=True):
        assert distance == abs(_place(a, numbers, every) - _place(b, numbers, every))


def _place(number: float, numbers: list[float], every: np.ndarray) -> int:
    right = bisect.bisect_left(numbers, number)
    if numbers[right] == number:
        return right
    low, high = Fraction(number) - Fraction(numbers[right - 1]), Fraction(numbers[right]) - Fraction(number)
    if low != high:
        return right - 1 if low < high else right
    even = {float(every[pattern]) for pattern in _patterns(every, numbers[right - 1]) if pattern % 2 == 0}
    return right - 1 if even else right


def _patterns(every: np.ndarray, number: float) -> list[int]:
    return [int(i) for i in np.flatnonzero(every == number)]


def _ordinal(number: float) -> int:
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    return -(bits & 0x7FFFFFFF) if bits >> 31 else bits


_singles = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(_singles, _singles), min_size=1, max_size=50))
def test_distance_of_singles_is_that_of_their_bit_patterns(pairs: list[tuple[float, float]]) -> None:
    value, reference = (np.array(side) for side in zip(*pairs, strict=True))
    expected = [abs(_ordinal(a) - _ordinal(b)) for a, b in pairs]
    assert ulp_distance(value, reference, "fp32").tolist() == expected
    assert ulp_distance(reference, value, "fp32").tolist() == expected


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["fp32", "fp16", "bf16"]))
def test_rounds_to_the_nearest_number(number: float, precision: str) -> None:
    """A double is no step from the number that exact arithmetic rounds it to."""
    nearest = _rounded(number, precision)
    assert ulp_distance(np.array([number]), np.array([nearest]), precision)[0] == 0


def _rounded(number: float, precision: str) -> float:
    """Round in exact arithmetic: to so many binary digits, none below the smallest number, ties to even."""
    if number == 0:
        return 0.0
    _, exponent = math.frexp(number)
    unit = Fraction(2) ** max(exponent - _DIGITS[precision], round(math.log2(_SMALLEST[precision])))
    rounded = Fraction(round(Fraction(number) / unit)) * unit  # Python rounds halves to even
    return float(rounded) if abs(rounded) <= _LARGEST[precision] else math.copysign(INF, number)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(_singles, _singles), max_size=50))
def test_histogram_holds_every_element_once(pairs: list[tuple[float, float]]) -> None:
    value, reference = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    counts = ulp_histogram(value, reference, np.ones(len(pairs), bool), "fp32")
    bounds = (-1, *BUCKETS, math.inf)
    distances = [abs(_ordinal(a) - _ordinal(b)) for a, b in pairs]
    expected = [sum(low < distance <= high for distance in distances) for low, high in itertools.pairwise(bounds)]
    assert list(counts) == expected


def test_counts_last_places_of_doubles() -> None:
    value = np.array([1.0, -0.0, 5e-324, -1.0, np.nextafter(1.0, 2.0)])
    reference = np.array([1.0, 0.0, -5e-324, 1.0, 1.0])
    assert ulp_distance(value, reference, "fp64").tolist()[:3] == [0, 0, 2]
    assert ulp_distance(value, reference, "fp64")[3] > 2**62
    assert ulp_distance(value, reference, "fp64")[4] == 1
