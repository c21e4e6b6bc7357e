"""Random roundings of a file's nodes: where they lie, and how far they move the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from hsm_export.runtimes import get
from hsm_export.runtimes.rounded_graph import rounded_graph
from hsm_export.runtimes.runtime import RunContext

LENGTH = 64


def randoms(graph: onnx.GraphProto) -> int:
    return sum(node.op_type == "RandomUniformLike" for node in graph.node)


def inner(model: onnx.ModelProto, operator: str) -> list[onnx.GraphProto]:
    node = next(node for node in model.graph.node if node.op_type == operator)
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def moved(model: onnx.ModelProto, folder: Path, **feeds: np.ndarray) -> float:
    """Return by how many units of float32 a draw moves the first output at most, relative to its largest number."""
    onnx.checker.check_model(model)
    results = []
    for draw in (0, 1):
        with get("onnx64").runner(RunContext(model, folder, "fp32", rounding=draw)) as runner:
            results.append(np.asarray(next(iter(runner.infer(feeds, check_inputs=False).values()))))
    exact, rounded = results
    return float(np.abs(rounded - exact).max() / np.abs(exact).max() / 2.0**-23)


IF = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[n] x, bool c) => (float[n] y) {
    y = If (c) <
        then_branch = then_graph () => (float[n] a) { s = Exp(x) t = Mul(s, x) a = Sqrt(t) },
        else_branch = else_graph () => (float[n] b) { b = Identity(x) }
    >
}
"""
LOOP = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[n] x, int64 count) => (float[n] y) {
    yes = Constant <value = bool {1}> ()
    y = Loop (count, yes, x) <
        body = step (int64 i, bool go, float[n] state) => (bool again, float[n] next) {
            again = Identity(go)
            half = Constant <value = float {0.99}> ()
            next = Mul(state, half)
        }
    >
}
"""


def test_branches_are_rounded(tmp_path: Path) -> None:
    model = parser.parse_model(IF)
    then, other = inner(rounded_graph(model, 1), "If")
    assert randoms(then) == 3
    assert randoms(other) == 0  # which moves numbers only
    x = np.linspace(0.5, 2.0, LENGTH, dtype=np.float32)
    assert moved(model, tmp_path, x=x, c=np.array(True)) > 0.1
    assert moved(model, tmp_path, x=x, c=np.array(False)) == 0.0


@pytest.mark.parametrize("passes", [1, 64])
def test_each_pass_of_a_loop_is_rounded_anew(passes: int, tmp_path: Path) -> None:
    model = parser.parse_model(LOOP)
    moves = moved(model, tmp_path, x=np.linspace(0.5, 2.0, LENGTH, dtype=np.float32), count=np.array(passes))
    assert 0.2 < moves < 0.6 if passes == 1 else 1.0 < moves < 8.0


def test_a_scan_over_values_of_the_graph_around_it(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    agraph (float[t, n] x, float[n] scale) => (float[n] y) {
        start = Mul(scale, scale)
        y, all = Scan <num_scan_inputs = 1,
            body = step (float[n] state, float[n] row) => (float[n] next, float[n] out) {
                scaled = Mul(row, start)
                next = Add(state, scaled)
                out = Identity(next)
            }
        > (start, x)
    }
    """
    model = parser.parse_model(text)
    assert randoms(inner(rounded_graph(model, 1), "Scan")[0]) == 2
    ones = np.ones(LENGTH, np.float32)
    assert moved(model, tmp_path, x=np.ones((32, LENGTH), np.float32), scale=ones * 1.5) > 0.2


def test_functions_of_others_become_their_nodes(tmp_path: Path) -> None:
    body = [helper.make_node("Exp", ["a"], ["b"]), helper.make_node("Log", ["b"], ["c"])]
    function = helper.make_function("mine", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    kind = helper.make_tensor_value_info("x", 1, ["n"])
    graph = helper.make_graph([helper.make_node("Twice", ["x"], ["y"], domain="mine")], "g", [kind], [])
    graph.output.append(helper.make_tensor_value_info("y", 1, ["n"]))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    assert randoms(rounded_graph(model, 1).graph) >= 2
    assert moved(model, tmp_path, x=np.full(LENGTH, 0.01, np.float32)) > 20.0  # Log takes what Exp rounded near 1


def test_numbers_of_draws_differ_and_zero_draws_change_nothing() -> None:
    model = parser.parse_model(IF)
    assert rounded_graph(model, 0) is model
    assert rounded_graph(model, 1) == rounded_graph(model, 1)
    assert rounded_graph(model, 1) != rounded_graph(model, 2)
