"""The one error: what is equal, what is not, and how far apart the rest is."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hsm_export.comparison.error import distance, finite_distance, is_exact, largest, measure

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [
        ([INF, 1.0], [INF, 1.0], 0.0),
        ([-INF, NAN], [-INF, NAN], 0.0),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([NAN, 1.0], [0.0, 1.0], INF),
        ([0.0, 1.0], [NAN, 1.0], INF),
        ([-INF, 1.0001], [-INF, 1.0], pytest.approx(1e-4)),
        ([-3.4028235e38, 1.5], [-3.4028235e38, 1.0], 0.5),
    ],
)
def test_infinities_and_nan(value: list[float], reference: list[float], expected: float) -> None:
    assert distance(np.array(value), np.array(reference)) == expected


def test_integers_are_compared_in_their_own_type() -> None:
    large = np.array([2**60 + 1, 5], np.int64)
    found = measure(large, large + np.array([2, 0]))
    assert (found.max_abs, found.worst_index) == (2.0, (0,))
    assert found.value == 2**60 + 1 and found.reference == 2**60 + 3
    assert distance(np.array([2**64 - 1], np.uint64), np.array([2**64 - 2], np.uint64)) == 1.0
    assert distance(large, large.copy()) == 0.0


def test_integers_that_do_not_count_are_no_error() -> None:
    """Of an argmin of huge numbers the first element may be one that native precision cannot tell."""
    value, reference, counted = np.array([0, 3, 5]), np.array([6, 3, 5]), np.array([False, True, True])
    found = measure(value, reference, counted)
    assert (found.max_abs, found.worst_index, found.compared) == (0.0, (1,), 2)
    assert distance(np.array([True, False]), np.array([False, False]), np.array([False, True])) == 0.0


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [
        (np.array([True, False]), np.array([True, True]), 1.0),
        (np.array(["a", "bc"], object), np.array(["a", "bd"], object), INF),
        (np.array(["a", "bc"], object), np.array(["a", "bc"], object), 0.0),
        (np.array([3, -4], ml_dtypes.int4), np.array([3, -5], ml_dtypes.int4), 1.0),
    ],
)
def test_every_exact_type(value: Any, reference: Any, expected: float) -> None:
    assert is_exact(value)
    assert distance(value, reference) == expected


def test_empty_arrays_are_equal_if_their_shapes_are() -> None:
    assert distance(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
    assert distance(np.zeros((0, 3)), np.zeros((0, 4))) == INF
    assert measure(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64)).max_abs == 0.0


def test_what_does_not_count_may_be_anything() -> None:
    counted = np.array([True, False])
    assert distance(np.array([1.0, NAN]), np.array([1.0, 5.0]), counted) == 0.0
    assert distance(np.array([1, 9]), np.array([1, 5]), counted) == 0.0


def test_rounding_alone_ignores_what_is_not_finite() -> None:
    assert finite_distance(np.array([INF, 1.5]), np.array([9e4, 1.0])) == 0.5
    assert finite_distance(np.array([1, 2]), np.array([1, 9])) == 0.0
    assert largest(np.array([-INF, 3.0, NAN])) == 3.0


def test_small_floating_types_and_complex_numbers() -> None:
    assert distance(np.array([1.5], ml_dtypes.bfloat16), np.array([1.0])) == 0.5
    assert distance(np.array([1.5], ml_dtypes.float8_e4m3fn), np.array([1.0])) == 0.5
    assert distance(np.array([3 + 4j]), np.array([0j])) == 5.0
