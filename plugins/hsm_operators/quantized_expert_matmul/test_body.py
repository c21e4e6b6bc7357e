"""QuantizedExpertMatMul and its sum: bodies, PyTorch operators and the definition agree, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from tests.operators.cases import check, trial
from tests.operators.harness import DTYPES, float32_border, one_node_model, run_onnx_runtime, run_reference, run_torch

NAMES = ("QuantizedExpertMatMul", "QuantizedExpertMatMulSum")
SIZES = [
    ({"B": 1, "T": 1, "H": 1, "E": 1, "G": 1, "R": 1}, 1, 1),
    ({"B": 2, "T": 1, "H": 2, "E": 5, "G": 1, "R": 7}, 2, 1),
    ({"B": 2, "T": 9, "H": 3, "E": 4, "G": 3, "R": 2}, 4, 2),
    ({"B": 1, "T": 33, "H": 2, "E": 8, "G": 2, "R": 8}, 1, 2),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "k", "per_byte"), SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name: str, sizes: dict[str, int], k: int, per_byte: int, dtype: str) -> None:
    inner, outer = ("D", "f") if name == NAMES[0] else ("f", "D")
    whole = {**sizes, inner: sizes["G"] * sizes["R"] * per_byte, outer: 5}
    check(trial(name, whole, {"k": k, "per_byte": per_byte}), dtype, np.random.default_rng(k))


@pytest.mark.parametrize("per_byte", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_each_number_stands_where_the_specification_says(name: str, per_byte: int) -> None:
    """One row of x is 1 at a time: the result is that row of the matrix, half of it for a logit of 0."""
    rows = 4 * per_byte
    inner, outer = ("D", "f") if name == NAMES[0] else ("f", "D")
    sizes = {"B": 1, "T": rows, "H": 1, "E": 1, "G": 2, "R": 2, inner: rows, outer: 3}
    attributes = {"k": 1, "per_byte": per_byte}
    inputs = trial(name, sizes, attributes).inputs(np.random.default_rng(1))
    inputs["logits"][:] = 0
    inputs["x"] = np.eye(rows).reshape(inputs["x"].shape)
    weight = inputs["weight"][0, 0].reshape(4, 3).astype(int)
    halves = [weight - 128] if per_byte == 1 else [weight % 16 - 8, weight // 16 - 8]
    numbers = np.stack(halves, 1).reshape(rows, 3)
    expected = 0.5 * numbers * np.repeat(inputs["scales"][0, 0], rows // 2, axis=0).astype(np.float32)
    model = float32_border(one_node_model(name, attributes))
    for y in (
        run_onnx_runtime(model, inputs)[0],
        run_reference(model, inputs)[0],
        run_torch(name, attributes, inputs, "fp32")[0],
    ):
        np.testing.assert_allclose(y.reshape(rows, 3), expected, rtol=1e-6)
