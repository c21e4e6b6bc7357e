"""What one node may be off, and what it should have given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.plain_models import NODE, chain, context, model, rows

from hsm_export.comparison.threshold import Threshold
from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.diffing.layers.node_maths import NodeMaths
from hsm_operators import functions_for, make_node

EPS32 = 2.0**-23


def thresholds(node: onnx.NodeProto, feed: dict[str, Any], weights: Any, folder: Path) -> tuple[Any, Threshold]:
    """Return the exact result of a graph's only layer, and its threshold."""
    proto = model([node], weights, shape=feed["x"].shape)
    graph = LayerGraph(proto)
    with NodeMaths(graph, graph.layers[0], context(proto, folder)) as maths:
        exact = maths.exact(feed)
        return exact["y"], maths.thresholds(feed, exact)["y"]


def test_the_exact_result_is_that_of_float64(tmp_path: Path) -> None:
    feed = rows()
    weight = np.random.default_rng(2).standard_normal((4, 4)).astype(np.float32)
    exact, _ = thresholds(NODE("MatMul", ["x", "w"], ["y"]), feed, {"w": weight}, tmp_path)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, feed["x"].astype(float) @ weight.astype(float), rtol=1e-14)


def test_weights_that_are_computed_come_along(tmp_path: Path) -> None:
    proto = chain()
    graph = LayerGraph(proto)
    with NodeMaths(graph, graph.layers[0], context(proto, tmp_path)) as maths:
        exact = maths.exact(rows())["a"]
        allowed = maths.thresholds(rows(), {"a": exact})["a"]
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]).astype(float)
    np.testing.assert_allclose(exact, rows()["x"].astype(float) @ weight.T, rtol=1e-14)
    assert allowed.native_by == "torch"


def test_moving_numbers_may_cost_a_few_units_in_the_last_place(tmp_path: Path) -> None:
    feed = {"x": np.float32([[1.0, -8.0], [3.0, 4.0]])}
    _, allowed = thresholds(NODE("Transpose", ["x"], ["y"], perm=[0, 1]), feed, None, tmp_path)
    assert allowed.native == 0
    assert allowed.floor == 4 * EPS32 * 8
    assert allowed.value == max(allowed.floor, allowed.condition)


def test_the_condition_is_the_effect_of_rounded_inputs(tmp_path: Path) -> None:
    """exp(20) has 20 times the relative error of its input."""
    feed = {"x": np.full((2, 64), 20.0, np.float32)}
    _, allowed = thresholds(NODE("Exp", ["x"], ["y"]), feed, None, tmp_path)
    assert allowed.source == "condition"
    assert allowed.condition == pytest.approx(2 * np.exp(20) * 20 * EPS32 / 2, rel=0.01)


def test_a_long_sum_may_round_as_all_orders_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    feed = {"x": np.full((1, 4096), 1.0, np.float32) + rng.random((1, 4096)).astype(np.float32)}
    weight = np.ones((4096, 1), np.float32)
    proto = model([NODE("MatMul", ["x", "w"], ["y"])], {"w": weight}, shape=[1, 4096], output_shape=[1, 1])
    graph = LayerGraph(proto)
    with NodeMaths(graph, graph.layers[0], context(proto, tmp_path)) as maths:
        exact = maths.exact(feed)
        allowed = maths.thresholds(feed, exact)["y"]
    one_by_one = np.float32(0)
    for number in feed["x"][0]:
        one_by_one += number
    assert abs(float(one_by_one) - float(exact["y"][0, 0])) <= allowed.value
    # And no more than that: a lost term shows.
    assert allowed.value < 1.0


def test_infinities_do_not_make_a_threshold_infinite(tmp_path: Path) -> None:
    feed = {"x": np.float32([[-np.inf, 1.0, 2.0]])}
    _, allowed = thresholds(NODE("Relu", ["x"], ["y"]), feed, None, tmp_path)
    assert 0 < allowed.value < 1e-5
    exact, allowed = thresholds(NODE("Neg", ["x"], ["y"]), feed, None, tmp_path)
    assert exact[0, 0] == np.inf
    assert 0 < allowed.value < 1e-5


def test_an_operator_that_torch_lacks_is_measured_by_onnx(tmp_path: Path) -> None:
    _, allowed = thresholds(NODE("Celu", ["x"], ["y"], alpha=1.0), rows(), None, tmp_path)
    assert allowed.native_by == "onnx-reference"


def test_the_threshold_says_which_term_decided() -> None:
    assert Threshold(3.0, 1.0, "torch", 3.0, 2.0).source == "condition"
    assert Threshold(3.0, 3.0, "torch", 1.0, 2.0).source == "native"


def test_a_wrong_body_does_not_allow_for_itself(tmp_path: Path) -> None:
    """Native error is PyTorch's against itself in float64: a body that differs from it is at fault, not imprecise."""
    node = make_node("TokenShift", ["x"], ["y"], shifts=[1, 2])
    value = onnx.helper.make_tensor_value_info
    borders = [value(name, onnx.TensorProto.FLOAT, [2, 5, 4]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "shift", borders[:1], borders[1:])
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("hsm", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    (body,) = functions_for(proto)
    result = body.output[0]
    body.output[0] = "negated"
    body.node.append(onnx.helper.make_node("Neg", [result], ["negated"]))
    proto.functions.append(body)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)}
    layers = LayerGraph(proto)
    with NodeMaths(layers, layers.layers[0], context(proto, tmp_path)) as maths:
        exact = maths.exact(feed)
        allowed = maths.thresholds(feed, exact)["y"]
    assert exact["y"][0, 2, 0] == -feed["x"][0, 1, 0]
    assert allowed.native == 0
    assert allowed.value < 1e-5
