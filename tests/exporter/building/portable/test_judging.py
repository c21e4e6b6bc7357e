"""The verdicts on an engine's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hsm_export.building.portable.judging import arrays_of, judge

EXPECTED = np.arange(6, dtype=np.float64).reshape(2, 3)
COMPARED = np.array([[True, True, True], [True, True, False]])
CASES = [{"name": "random 2×3", "tolerances": {"logits": 0.1}}]
REFERENCES = {"case0.expected.logits": EXPECTED, "case0.compared.logits": COMPARED}


def verdict(value: Any) -> Any:
    outputs = {} if value is None else {"case0.output.logits": value}
    (only,) = judge(CASES, REFERENCES, outputs)
    return only


def test_numbers_within_the_tolerance_pass() -> None:
    found = verdict((EXPECTED + 0.09).astype(np.float32))
    assert found.problem is None
    assert found.error == pytest.approx(0.09, rel=1e-5)


def test_elements_that_do_not_count_may_be_anything() -> None:
    value = EXPECTED.copy()
    value[1, 2] = np.nan
    assert verdict(value).problem is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (EXPECTED + 0.11, "error 0.11, allowed 0.1"),
        (EXPECTED.T, "shape"),
        (np.where(EXPECTED == 1, np.nan, EXPECTED), "NaN"),
        (np.where(EXPECTED == 0, -np.inf, EXPECTED), "infinities"),
        (None, "missing"),
    ],
)
def test_everything_else_fails_with_the_reason(value: Any, words: str) -> None:
    assert words in verdict(value).problem


def test_arrays_are_found_by_case_and_part() -> None:
    arrays = {"case1.input.past.0.ring": 1, "case10.input.x": 2, "case1.expected.x": 3}
    assert arrays_of(arrays, 1, "input") == {"past.0.ring": 1}
