"""Outputs of a runtime, judged and described."""

from __future__ import annotations

import numpy as np
from tests.exporter.diffing.synthetic import output

from hsm_export.diffing.outputs import noise_between


def test_a_failing_output_is_one_line() -> None:
    line = output("ort", error=1.0, allowed=0.1).line()
    assert line.startswith("ort: output logits[1, 4, 17] is 5, should be 4 (")
    assert "random, 2×17" in line
    assert "\n" not in line


def test_noise_is_the_largest_difference_of_two_runs() -> None:
    first = {"a": np.float32([1, 2]), "n": np.int64([1])}
    assert noise_between(first, first) == 0
    assert noise_between(first, {"a": np.float32([1, 2.5]), "n": np.int64([1])}) == 0.5
    assert noise_between(first, {"a": np.float32([1, 2]), "n": np.int64([9])}) == 8


def test_a_nan_that_comes_and_goes_is_infinite_noise() -> None:
    nan = {"a": np.float32([np.nan, 1])}
    assert noise_between(nan, nan) == 0
    assert noise_between(nan, {"a": np.float32([1, 1])}) == float("inf")
    infinite = {"a": np.float32([np.inf, 1])}
    assert noise_between(infinite, infinite) == 0
    assert noise_between(infinite, {"a": np.float32([-np.inf, 1])}) == float("inf")


def test_another_shape_is_infinite_noise() -> None:
    assert noise_between({"a": np.zeros(2, np.float32)}, {"a": np.zeros(3, np.float32)}) == float("inf")
