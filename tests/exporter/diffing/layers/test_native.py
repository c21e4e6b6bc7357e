"""Single nodes in PyTorch: ONNX's meaning, native precision, several ways to round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tests.exporter.diffing.plain_models import NODE

from hsm_export.diffing.layers.native import _STANDARD, native_results
from hsm_export.runtimes.evaluator import operators

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 3, 5)).astype(np.float32), RNG.standard_normal((5, 4)).astype(np.float32)
SCALE, BIAS = RNG.standard_normal(5).astype(np.float32), RNG.standard_normal(5).astype(np.float32)
POSITIVE = np.abs(A) + 0.1

CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "MatMul": ([A, B], {}),
    "Gemm": ([A[0], B, RNG.standard_normal(4).astype(np.float32)], {"alpha": 0.5, "beta": 2.0}),
    "Gemm transposed": ([A[0].T, B.T], {"transA": 1, "transB": 1}),
    "LayerNormalization": ([A, SCALE, BIAS], {"epsilon": 1e-3}),
    "LayerNormalization over two": ([A, RNG.standard_normal((3, 5)).astype(np.float32)], {"axis": 1}),
    **{f"Reduce{name}": ([A, np.int64([1])], {}) for name in ("Sum", "Mean", "L1", "L2", "SumSquare")},
    "ReduceMean of all": ([A], {}),
    "ReduceSum of two": ([A, np.int64([-1, 0])], {"keepdims": 0}),
    "ReduceSum of none": ([A, np.zeros(0, np.int64)], {"noop_with_empty_axes": 1}),
    "Softmax": ([A], {}),
    "Softmax in the middle": ([A], {"axis": 1}),
    "Gelu": ([A], {}),
    "Gelu by tanh": ([A], {"approximate": "tanh"}),
    **{name: ([A, POSITIVE[:1]], {}) for name in ("Add", "Sub", "Mul", "Div")},
    "Pow": ([POSITIVE, A[:1]], {}),
    **{name: ([A], {}) for name in ("Sigmoid", "Tanh", "Relu", "Erf", "Exp", "Sin", "Cos")},
    **{name: ([POSITIVE], {}) for name in ("Log", "Sqrt", "Reciprocal")},
    **{name: ([A], {}) for name in ("Elu", "Softplus", "Mish", "GlobalAveragePool")},
    "Elu of another slope": ([A], {"alpha": 0.5}),
    "LogSoftmax": ([A], {"axis": 1}),
    "LRN": ([RNG.standard_normal((1, 7, 3, 3)).astype(np.float32)], {"size": 3, "alpha": 0.5, "bias": 2.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_mean_what_they_mean_in_onnx(case: str) -> None:
    arrays, attributes = CASES[case]
    names = [f"i{place}" for place in range(len(arrays))]
    types = [FLOAT if array.dtype == np.float32 else TensorProto.INT64 for array in arrays]
    node = NODE(case.split()[0], names, ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, kind, array.shape)
            for name, array, kind in zip(names, arrays, types, strict=True)
        ],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    )
    evaluator = ReferenceEvaluator(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), new_ops=operators()
    )
    (expected,) = evaluator.run(None, dict(zip(names, arrays, strict=True)))
    ways = native_results(node, arrays, types)
    assert ways
    for (result,) in ways:
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_every_operator_is_tested() -> None:
    assert {case.split()[0] for case in CASES} == set(_STANDARD)


def test_products_add_in_several_orders() -> None:
    long, wide = RNG.standard_normal((3, 4096)).astype(np.float32), RNG.standard_normal((4096, 2)).astype(np.float32)
    ways = native_results(NODE("MatMul", ["a", "b"], ["y"]), [long, wide], [FLOAT, FLOAT])
    assert len(ways) == 5
    assert len({way[0].tobytes() for way in ways}) > 2
    exact = long.astype(float) @ wide.astype(float)
    assert all(np.abs(way[0] - exact).max() < 1e-3 for way in ways)


def test_sums_add_in_several_orders() -> None:
    terms = RNG.standard_normal((8, 4096)).astype(np.float32)
    ways = native_results(NODE("ReduceSum", ["a", "i"], ["y"]), [terms, np.int64([1])], [FLOAT, TensorProto.INT64])
    errors = [np.abs(way[0] - terms.astype(float).sum(1, keepdims=True)).max() for way in ways]
    assert len(ways) == 5
    assert errors[-1] > 2 * errors[0]  # one after the other rounds worst
    one_by_one = np.zeros((8, 1), np.float32)
    for column in range(terms.shape[1]):
        one_by_one += terms[:, column : column + 1]
    np.testing.assert_array_equal(ways[-1][0], one_by_one)


def test_a_layer_norm_far_from_zero_rounds_as_both_formulas_of_the_variance_do() -> None:
    x = (100 + RNG.standard_normal((4, 64))).astype(np.float32)
    ways = native_results(NODE("LayerNormalization", ["x", "s"], ["y"]), [x, np.ones(64, np.float32)], [FLOAT, FLOAT])
    wide = x.astype(float)
    exact = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    by_moments, by_squares = (np.abs(way[0] - exact).max() for way in ways)
    assert by_moments < 1e-4
    assert by_moments < by_squares < 0.05


@pytest.mark.parametrize(("kind", "epsilon"), [(TensorProto.FLOAT16, 2.0**-10), (TensorProto.BFLOAT16, 2.0**-7)])
def test_results_are_rounded_to_the_type_of_the_file(kind: int, epsilon: float) -> None:
    (way,) = native_results(NODE("Mul", ["a", "b"], ["y"]), [A, POSITIVE], [kind, kind])
    error = np.abs(way[0].astype(float) - A.astype(float) * POSITIVE)
    assert 0 < (error / np.abs(A * POSITIVE)).max() < 3 * epsilon


@pytest.mark.parametrize(
    ("node", "arrays"),
    [
        (NODE("Conv", ["a", "b"], ["y"]), [A, B]),
        (NODE("Add", ["a", "b"], ["y"]), [np.int64([1]), np.int64([2])]),
        (NODE("Add", ["a", "b"], ["y"], domain="strange"), [A, A]),
        (NODE("Unknown", ["a"], ["y"], domain="hsm"), [A]),
    ],
    ids=["no such operator", "integers", "another domain", "another operator of ours"],
)
def test_what_torch_does_not_know_has_no_native_result(node: Any, arrays: list[Any]) -> None:
    types = [FLOAT if array.dtype == np.float32 else TensorProto.INT64 for array in arrays]
    assert native_results(node, arrays, types) == []


def test_taylor_shift_runs_in_both_of_its_forms() -> None:
    from hsm_operators import OPERATORS

    operator = OPERATORS["TaylorShift"]
    q, k, v = (RNG.standard_normal((1, 7, 2, 4)).astype(np.float32) for _ in range(3))
    known = {"q": q, "k": k, "v": v}
    arrays = [known.get(value.name, np.ones(2, np.float32)) for value in operator.inputs]
    attributes = {item.name: 1 for item in operator.attributes}
    node = NODE("TaylorShift", [value.name for value in operator.inputs], ["y"], domain="hsm", **attributes)
    ways = native_results(node, arrays, [FLOAT] * len(arrays))
    assert len(ways) == 2
    np.testing.assert_allclose(ways[0][0], ways[1][0], rtol=1e-3, atol=1e-5)
