"""onnx's evaluator and PyTorch with their sums in other orders: the same maths, other rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from tests.operators.harness import ANY_ATTRIBUTES, one_node_model

from hsm_export.runtimes import get
from hsm_export.runtimes.runtime import RunContext
from hsm_export.runtimes.summation import summed_in

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SUM = {"MatMul": {}, "Gemm": {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}}


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray], order: int) -> np.ndarray:
    with get("onnx-reference").runner(RunContext(model, Path(), "fp32", summation=order)) as runner:
        return next(iter(runner.infer(feed).values()))


def product(operator: str, a: np.ndarray, b: np.ndarray) -> onnx.ModelProto:
    """A product with constant b, and with a bias where the operator is Gemm."""
    inputs = ["a", "b", "c"] if operator == "Gemm" else ["a", "b"]
    weights = {"b": b, "c": np.arange(b.shape[0], dtype=np.float32)}
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], **SUM[operator])],
        "graph",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, a.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights[name], name) for name in inputs[1:]],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("operator", SUM)
def test_every_order_gives_the_product_and_rounds_by_itself(operator: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 61, 61)).astype(np.float32)
    exact = a.astype(np.float64) @ b
    if operator == "Gemm":
        exact = 0.5 * a.astype(np.float64).T @ b.T + 2 * np.arange(61)
    results = [run(product(operator, a, b), {"a": a}, order) for order in range(4)]
    for index, result in enumerate(results):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
        for other in results[:index]:
            assert (result != other).any()


@pytest.mark.parametrize(
    "multiply",
    [
        lambda a, b: a @ b,
        torch.matmul,
        torch.mm,
        lambda a, b: a.matmul(b),
        lambda a, b: F.linear(a, b.t().contiguous()),
    ],
    ids=["operator", "function", "mm", "method", "linear"],
)
def test_pytorchs_products_round_by_themselves_in_every_order(multiply: Multiply) -> None:
    a, b = torch.randn(2, 61, 61)
    exact = a.double() @ b.double()
    results = []
    for order in range(4):
        with summed_in(order):
            results.append(multiply(a, b))
    for index, result in enumerate(results):
        torch.testing.assert_close(result.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
        for other in results[:index]:
            assert (result != other).any()
    assert torch.equal(results[0], multiply(a, b))


def test_pytorchs_layers_keep_their_shapes_and_biases_in_every_order() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(7, 5), torch.randn(2, 3, 7)
    scores, values = torch.randn(2, 4, 3, 5), torch.randn(4, 5, 2)
    with torch.inference_mode():
        expected = layer(x), scores @ values, x @ x[0, 0]
        with summed_in(2):
            found = layer(x), scores @ values, x @ x[0, 0]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shapes", [((5,), (5,)), ((2, 3, 5), (5,)), ((5,), (2, 5, 3)), ((2, 1, 3, 5), (4, 5, 2))])
def test_products_of_any_rank(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    np.testing.assert_allclose(run(product("MatMul", a, b), {"a": a}, 3), np.matmul(a, b), rtol=1e-4, atol=1e-5)


def test_sums_inside_bodies_change_their_order_too() -> None:
    model = one_node_model("TaylorShift", ANY_ATTRIBUTES["TaylorShift"])
    rng = np.random.default_rng(2)
    feed = {name: rng.standard_normal((1, 40, 2, 16)).astype(np.float32) for name in "qkv"}
    feed["temperature"] = np.ones(2, np.float32)
    first, second = (run(model, feed, order) for order in (0, 1))
    assert (first != second).any()
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
