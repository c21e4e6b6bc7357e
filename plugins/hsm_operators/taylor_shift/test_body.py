"""TaylorShift and TaylorShiftMasked: bodies, PyTorch operators and the definition agree."""

from __future__ import annotations

import numpy as np
import pytest
from tests.operators.cases import check, trial
from tests.operators.harness import DTYPES, float32_border, one_node_model, run_onnx_runtime

SIZES = [
    {"B": 1, "T": 1, "H": 1, "d": 1},
    {"B": 2, "T": 1, "H": 3, "d": 2},
    {"B": 2, "T": 5, "H": 2, "d": 7},
    {"B": 1, "T": 73, "H": 2, "d": 8},
    {"B": 1, "T": 74, "H": 1, "d": 8},
    {"B": 1, "T": 150, "H": 2, "d": 3},
    {"B": 2, "T": 31, "H": 3, "d": 1, "e": 13},
    {"B": 2, "T": 67, "H": 2, "d": 7, "e": 3},
    {"B": 1, "T": 150, "H": 2, "d": 5, "e": 17},
]
LENGTHS = [
    ({"B": 2, "T": 1, "H": 2, "d": 3}, [1, 1]),
    ({"B": 3, "T": 9, "H": 2, "d": 5}, [9, 1, 4]),
    ({"B": 2, "T": 130, "H": 1, "d": 4}, [129, 7]),
    ({"B": 3, "T": 41, "H": 2, "d": 3, "e": 11}, [41, 1, 17]),
    ({"B": 2, "T": 40, "H": 2, "d": 5, "e": 2}, [13, 40]),
]
FLAGS = [{"normalize": n, "output_norm": o} for n in (0, 1) for o in (0, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_all_tokens(sizes: dict[str, int], dtype: str) -> None:
    check(trial("TaylorShift", sizes, FLAGS[3]), dtype, np.random.default_rng(sizes["T"]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "lengths"), LENGTHS, ids=str)
def test_valid_tokens(sizes: dict[str, int], lengths: list[int], dtype: str) -> None:
    check(trial("TaylorShiftMasked", sizes, FLAGS[3], {"lengths": lengths}), dtype, np.random.default_rng(sizes["T"]))


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("name", ["TaylorShift", "TaylorShiftMasked"])
def test_every_attribute_value(name: str, flags: dict[str, int]) -> None:
    rows = {"lengths": [6, 3]} if name == "TaylorShiftMasked" else {}
    check(trial(name, {"B": 2, "T": 6, "H": 2, "d": 5, "e": 3}, flags, rows), "fp32", np.random.default_rng(3))


@pytest.mark.parametrize("fill", [{"q": 0.0}, {"k": 0.0}, {"q": 1e-30, "k": 1e15}], ids=str)
def test_zero_and_extreme_vectors(fill: dict[str, float]) -> None:
    check(trial("TaylorShift", {"B": 1, "T": 4, "H": 2, "d": 3}, FLAGS[2], fill=fill), "fp32", np.random.default_rng(4))


def test_what_stands_after_the_valid_tokens_is_never_read() -> None:
    case = trial("TaylorShiftMasked", {"B": 2, "T": 6, "H": 2, "d": 4}, FLAGS[3], {"lengths": [2, 6]})
    inputs = case.inputs(np.random.default_rng(5))
    model = float32_border(one_node_model(case.name, case.attributes))
    clean = run_onnx_runtime(model, inputs)[0]
    for name, poison in (("q", np.nan), ("k", np.inf), ("v", np.nan)):
        inputs[name][0, 2:] = poison
    poisoned = run_onnx_runtime(model, inputs)[0]
    np.testing.assert_array_equal(poisoned[0, :2], clean[0, :2])
    np.testing.assert_array_equal(poisoned[1], clean[1])
