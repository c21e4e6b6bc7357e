"""The verdicts on an engine's numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsm_export.building.portable.judging import arrays_of, judge
from hsm_export.kits.writing import _copy_programs

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


_ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hsm_export", "hsm_operators", "onnx", "torch", "ml_dtypes", "polygraphy"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
sys.path.insert(0, sys.argv[1])
import numpy as np
from hsm_kit.building.portable.kit import main
from hsm_kit.building.portable.judging import judge

case = {"name": "one", "tolerances": {"y": 0.1, "ids": 0.0}}
right = {"case0.expected.y": np.array([1.0, -np.inf]), "case0.expected.ids": np.array([2**60])}
counted = {"case0.compared.y": np.array([True, True]), "case0.compared.ids": np.array([True])}
given = {"case0.output.y": np.float32([1.05, -np.inf]), "case0.output.ids": np.array([2**60 + 1])}
print([verdict.problem for verdict in judge([case], right | counted, given)])
"""


def test_a_kits_programs_judge_alone_and_alike(tmp_path: Path) -> None:
    """On the GPU machine there is nothing but NumPy; the one measure comes along in the kit."""
    _copy_programs(tmp_path)
    run = subprocess.run([sys.executable, "-c", _ALONE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"[None, '{2**60 + 1} instead of {2**60}, which has to be equal")
