"""A graph without its control flow gives the same numbers, and every node in it says where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxruntime
from hsm_export.onnx_model.control_flow import named, unrolled
from hsm_export.onnx_model.control_nodes import has_control_flow, watched
from hsm_export.runtimes.runtime import RunContext
from hsm_export.validation.taken_path import taken_path

NODE = helper.make_node
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name: str, kind: int = FLOAT, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(proto: onnx.ModelProto, feed: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run([item.name for item in proto.graph.output], feed))


def flat(proto: onnx.ModelProto, feed: dict[str, Any], folder: Path) -> onnx.ModelProto:
    return taken_path(RunContext(proto, folder, "fp32"), feed).model


def same(first: onnx.ModelProto, second: onnx.ModelProto, feed: dict[str, Any]) -> None:
    for one, other in zip(run(first, feed), run(second, feed), strict=True):
        np.testing.assert_array_equal(one, other)


def branches() -> onnx.ModelProto:
    """An If by the sum of x: the branches hold a weight of one name."""
    weight = numpy_helper.from_array(np.float32([[1, 2], [3, 4]]), "w")
    then = helper.make_graph(
        [NODE("MatMul", ["x", "w"], ["z"], "product"), NODE("Tanh", ["z"], ["p"])],
        "t", [], [value("p"), value("z")], [weight],
    )  # fmt: skip
    other = helper.make_graph(
        [NODE("Add", ["x", "w"], ["z"], "sum"), NODE("Identity", ["x"], ["i"])],
        "e", [], [value("z"), value("i")], [weight],
    )  # fmt: skip
    nodes = [
        NODE("ReduceSum", ["x"], ["s"], "total", keepdims=0),
        NODE("Greater", ["s", "zero"], ["c"], "positive"),
        NODE("If", ["c"], ["a", "b"], "branch", then_branch=then, else_branch=other),
        NODE("Mul", ["a", "b"], ["y"], "joined"),
    ]
    return model(nodes, [value("x", FLOAT, [2, 2])], [value("y"), value("a")], {"zero": np.float32(0)})


def loop(trips: int = 5, condition: bool = True) -> onnx.ModelProto:
    """h' = tanh(h @ w + number), ended by a condition; its states and numbers are stacked."""
    body = helper.make_graph(
        [
            NODE("MatMul", ["h", "w"], ["m"], "product"),
            NODE("Cast", ["i"], ["f"], "number", to=FLOAT),
            NODE("Add", ["m", "f"], ["n"], "sum"),
            NODE("Tanh", ["n"], ["h2"], "squash"),
            NODE("Less", ["i", "last"], ["go"], "go"),
        ],
        "body",
        [value("i", INT64, []), value("c", BOOL, []), value("h", FLOAT, [2, 2])],
        [value("go", BOOL, []), value("h2", FLOAT, [2, 2]), value("h", FLOAT, [2, 2]), value("f", FLOAT, [])],
        [numpy_helper.from_array(np.float32([[0.5, -0.25], [0.125, 1]]), "w")],
    )
    inputs = ["trips", "yes" if condition else "", "x"]
    nodes = [NODE("Loop", inputs, ["end", "states", "numbers"], "decoder", body=body), NODE("Neg", ["end"], ["y"], "n")]
    weights = {"trips": np.int64(trips), "yes": np.array(True), "last": np.int64(3)}
    outputs = [value("y"), value("states"), value("numbers"), value("end")]
    return model(nodes, [value("x", FLOAT, [2, 2])], outputs, weights)


def growing() -> onnx.ModelProto:
    """A Loop whose state has one row more after each iteration, and an If inside that alternates."""
    then = helper.make_graph([NODE("Relu", ["l"], ["t"], "up")], "t", [], [value("t")])
    other = helper.make_graph([NODE("Neg", ["l"], ["e"], "down")], "e", [], [value("e")])
    body = helper.make_graph(
        [
            NODE("ReduceSum", ["h"], ["l"], "last", keepdims=1),
            NODE("Mod", ["i", "two"], ["odd"], "odd"),
            NODE("Cast", ["odd"], ["is"], "is", to=BOOL),
            NODE("If", ["is"], ["r"], "choice", then_branch=then, else_branch=other),
            NODE("Concat", ["h", "r"], ["h2"], "grow", axis=0),
            NODE("Identity", ["c"], ["c2"]),
        ],
        "body",
        [value("i", INT64, []), value("c", BOOL, []), value("h", FLOAT, ["n", 1])],
        [value("c2", BOOL, []), value("h2", FLOAT, ["n", 1])],
    )
    nodes = [NODE("Loop", ["trips", "", "x"], ["y"], "decoder", body=body)]
    weights = {"trips": np.int64(4), "two": np.int64(2)}
    return model(nodes, [value("x", FLOAT, ["k", 1])], [value("y")], weights)


def scan(**attributes: Any) -> onnx.ModelProto:
    """A running sum of the rows of x."""
    body = helper.make_graph(
        [NODE("Add", ["s", "v"], ["s2"], "sum"), NODE("Mul", ["s2", "s2"], ["o"], "square")],
        "body",
        [value("s", FLOAT, [3]), value("v", FLOAT, [3])],
        [value("s2", FLOAT, [3]), value("o", FLOAT, [3])],
    )
    axis = attributes.get("scan_input_axes", [0])[0]
    nodes = [NODE("Scan", ["start", "x"], ["end", "y"], "running", body=body, num_scan_inputs=1, **attributes)]
    shape = ["n", 3] if axis in (0, -2) else [3, "n"]
    return model(nodes, [value("x", FLOAT, shape)], [value("end"), value("y")], {"start": np.zeros(3, np.float32)})


X = np.float32([[0.5, -1.5], [2.0, 0.25]])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_branch_that_is_taken_stands_in_the_place_of_an_if(sign: int, tmp_path: Path) -> None:
    made = flat(branches(), {"x": X * sign}, tmp_path)
    assert not has_control_flow(made)
    same(branches(), made, {"x": X * sign})
    names = [node.name for node in made.graph.node]
    expected = "branch/then_branch/product" if sign > 0 else "branch/else_branch/sum"
    assert expected in names
    assert "joined" in names


@pytest.mark.parametrize("proto", [loop(5), loop(2), loop(3, condition=False)])
def test_every_iteration_of_a_loop_stands_alone(proto: onnx.ModelProto, tmp_path: Path) -> None:
    made = flat(proto, {"x": X}, tmp_path)
    assert not has_control_flow(made)
    same(proto, made, {"x": X})
    steps = {node.name.split("/")[1] for node in made.graph.node if node.name.endswith("/product")}
    assert steps == {f"body[{step}]" for step in range(len(run(proto, {"x": X})[2]))}
    weights = [item.name for item in made.graph.initializer if item.name.endswith("/w")]
    assert weights == ["decoder/body/w"], "iterations share their weights"


def test_a_state_may_grow_and_graphs_may_hold_graphs(tmp_path: Path) -> None:
    feed = {"x": np.float32([[1.5], [-2.0]])}
    made = flat(growing(), feed, tmp_path)
    assert not has_control_flow(made)
    same(growing(), made, feed)
    assert "decoder/body[1]/choice/then_branch/up" in [node.name for node in made.graph.node]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1]},
        {"scan_output_directions": [1]},
        {"scan_input_directions": [1], "scan_output_directions": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [1]},
        {"scan_input_axes": [-1], "scan_output_axes": [-1]},
    ],
)
@pytest.mark.parametrize("most", [2000, 20])
def test_scans_of_every_kind(attributes: dict[str, Any], most: int, tmp_path: Path) -> None:
    proto = scan(**attributes)
    x = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    feed = {"x": x.T.copy() if "scan_input_axes" in attributes else x}
    seen = watched(named(proto))
    taken = {index: np.array(feed["x"].shape) for index in seen.outputs}
    made, kept = unrolled(named(proto), taken, most)
    same(proto, made, feed)
    assert bool(kept) == (most == 20)


def test_what_is_too_long_stays_together_in_one_node() -> None:
    for trips, made in ((100, 4), (3, 3)):  # the condition ends it after four
        proto = named(loop(trips, condition=False))
        (index,) = watched(proto).outputs
        shortened, kept = unrolled(proto, {index: np.arange(made)}, 25)
        assert kept == (f"decoder/body[2…{made - 1}]",)
        same(proto, shortened, {"x": X})


def test_a_loop_without_iterations_stays_as_it_is(tmp_path: Path) -> None:
    made = flat(loop(0), {"x": X}, tmp_path)
    assert [node.op_type for node in made.graph.node] == ["Loop", "Neg"]
    same(loop(0), made, {"x": X})


def test_a_model_without_control_flow_is_returned_as_it_is(tmp_path: Path) -> None:
    proto = model([NODE("Neg", ["x"], ["y"])], [value("x", FLOAT, [2])], [value("y", FLOAT, [2])])
    assert flat(proto, {"x": np.zeros(2, np.float32)}, tmp_path) is proto
