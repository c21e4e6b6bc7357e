"""Whole models: several nodes of one operator, inlining, the functions that a model needs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper
from tests.operators.harness import ANY_ATTRIBUTES, as_model, one_node_model, run_onnx_runtime, run_reference

from hsm_operators import DOMAIN, OPERATORS, functions_for, inline, make_node
from tests import oracles


def _two_shifts() -> onnx.ModelProto:
    border = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", "length", 6]), ("y", ["batch", "length", 6]))
    ]
    nodes = [
        make_node("TokenShift", ["x"], ["middle"], "first", shifts=[1, 3]),
        make_node("TokenShift", ["middle"], ["y"], "second", shifts=[4]),
    ]
    return as_model(helper.make_graph(nodes, "graph", border[:1], border[1:]), "TokenShift")


def test_one_body_serves_different_attribute_values_in_one_model() -> None:
    model = _two_shifts()
    x = np.random.default_rng(0).standard_normal((2, 9, 6))
    truth = oracles.token_shift(oracles.token_shift(x.astype(np.float32), [1, 3]), [4])
    for run in (run_onnx_runtime, run_reference):
        np.testing.assert_array_equal(run(model, {"x": x})[0], truth)
        np.testing.assert_array_equal(run(inline(model), {"x": x})[0], truth)


def test_taylor_shift_with_all_attribute_values_in_one_model() -> None:
    names = ["q", "k", "v", "temperature"]
    flags = [{"normalize": n, "output_norm": o} for n in (0, 1) for o in (0, 1)]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", "T", 2, 4]) for n in names[:3]]
    inputs.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [2]))
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["B", "T", 2, 4]) for i in range(4)]
    nodes = [make_node("TaylorShift", names, [f"y{i}"], f"n{i}", **flag) for i, flag in enumerate(flags)]
    model = as_model(helper.make_graph(nodes, "graph", inputs, outputs), "TaylorShift")
    rng = np.random.default_rng(1)
    feed = {name: rng.standard_normal((2, 5, 2, 4)) for name in names[:3]} | {"temperature": rng.standard_normal(2)}
    for actual, flag in zip(run_onnx_runtime(model, feed), flags, strict=True):
        np.testing.assert_allclose(actual, oracles.taylor_shift(**feed, **flag), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_inlining_leaves_standard_operators_only(name: str) -> None:
    inlined = inline(one_node_model(name, ANY_ATTRIBUTES[name]))
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}
    onnx.checker.check_model(inlined, full_check=True)


def test_functions_for_lists_each_operator_once_also_those_inside_subgraphs() -> None:
    model = _two_shifts()
    del model.functions[:]
    branch = helper.make_graph(
        [make_node("ShiftMix", ["x", "a", "a"], ["z"], shifts=[1])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    model.opset_import[0].version = 22
    functions = functions_for(model)
    assert [function.name for function in functions] == ["ShiftMix", "TokenShift"]
    assert {function.opset_import[0].version for function in functions} == {22}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_node_carries_every_attribute(name: str) -> None:
    node = one_node_model(name, ANY_ATTRIBUTES[name]).graph.node[0]
    assert node.domain == DOMAIN
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert values == {**ANY_ATTRIBUTES[name], "plugin_namespace": b"hsm", "plugin_version": b"1"}


def test_make_node_refuses_incomplete_nodes() -> None:
    with pytest.raises(ValueError, match="attributes"):
        make_node("TokenShift", ["x"], ["y"])
    with pytest.raises(ValueError, match="attributes"):
        make_node("TokenShift", ["x"], ["y"], shifts=[1], form="auto")
    with pytest.raises(ValueError, match="inputs"):
        make_node("ShiftMix", ["x"], ["y"], shifts=[1])
