"""What right kernels add: approximations by the function's scale, long sums by their length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from hsm_export.comparison.allowance import function_scale, sum_error, terms
from hsm_export.comparison.error import distance
from hsm_export.dtypes import EPSILON
from hsm_export.runtimes import get
from hsm_export.runtimes.rounding import rounded_in_torch
from hsm_export.runtimes.runtime import RunContext


@pytest.mark.parametrize(
    ("operator", "shapes", "results", "expected"),
    [
        ("ReduceSum", [(4, 90000)], 1, 360000),
        ("ReduceSum", [(4, 9)], 4, 0),  # orders of summation are tried
        ("GlobalAveragePool", [(1, 8, 7, 7)], 8, 49),
        ("Conv", [(1, 8, 7, 7), (16, 8, 3, 3)], 1, 72),
        ("LSTM", [(10, 2, 4), (1, 32, 4), (1, 32, 8)], 1, 120),
        ("Add", [(2, 3)], 6, 0),
    ],
)
def test_terms(operator: str, shapes: list[tuple[int, ...]], results: int, expected: int) -> None:
    assert terms(operator, shapes, results) == expected


def test_scales() -> None:
    assert (function_scale("Sigmoid", 9.0), function_scale("Gelu", 9.0), function_scale("Exp", 9.0)) == (1.0, 9.0, 0.0)


def test_a_sequential_sum_stays_within_the_allowance() -> None:
    x = np.random.default_rng(0).random(200_000).astype(np.float32)
    total = np.add.accumulate(x)[-1]
    assert abs(float(total) - float(x.astype(np.float64).sum())) < sum_error(x.size, float(total))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_rounding_at_random_is_that_of_the_type(precision: str) -> None:
    x = torch.rand(1000, dtype=torch.float64) + 1.0
    with rounded_in_torch(precision, 1):
        moved = x * 1.5
    relative = (moved / (x * 1.5) - 1).abs().max()
    assert EPSILON[precision] / 4 < relative <= EPSILON[precision] / 2
    with rounded_in_torch(precision, 0):
        assert torch.equal(x * 1.5, x * 1.5)


def test_a_graph_is_rounded_as_pytorch_is(tmp_path) -> None:  # type: ignore[no-untyped-def]
    nodes = [helper.make_node("Mul", ["x", "x"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:]), ir_version=9)
    x = np.linspace(2, 4, 50, dtype=np.float32)
    found = []
    for draw in range(3):
        with get("onnx64").runner(RunContext(model, tmp_path, "fp32", rounding=draw)) as runner:
            found.append(dict(runner.infer({"x": x}, check_inputs=False))["y"])
    assert 1e-8 < distance(found[1], found[0]) < 1e-6
    assert distance(found[1], found[2]) > 0
