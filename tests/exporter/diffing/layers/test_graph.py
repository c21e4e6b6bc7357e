"""Graphs as layers, and parts of graphs as models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.exporter.diffing.plain_models import NODE, branching, chain, context, model, rows

from hsm_export.diffing.layers.graph import LayerGraph, node_name
from hsm_export.diffing.layers.tapping import run_once, single
from hsm_export.onnx_model.nodes import reads_of
from hsm_export.runtimes import get


def test_layers_are_the_nodes_that_depend_on_inputs() -> None:
    graph = LayerGraph(chain())
    assert [(layer.node, layer.inputs, layer.outputs) for layer in graph.layers] == [
        ("product", ("x",), ("a",)),
        ("squash", ("a",), ("b",)),
        ("scale", ("b",), ("y",)),
    ]
    assert [layer.index for layer in graph.layers] == [1, 2, 3]
    assert graph.readers["b"] == (3,)


def test_layers_read_what_their_subgraphs_capture() -> None:
    layers = {layer.node: layer for layer in LayerGraph(branching()).layers}
    assert layers["choice"].inputs == ("positive", "a")
    assert layers["scan"].inputs == ("b", "mean")
    assert len(layers["positive"].outputs) == 1  # Booleans are equal or wrong
    assert layers["scan"].attributes["body"] == "graph of 2 nodes"


def test_names_inside_a_subgraph_are_not_captures() -> None:
    scan = branching().graph.node[-1]
    assert set(reads_of(scan)) == {"start", "b", "mean"}


def test_a_node_without_a_name_gets_one() -> None:
    assert node_name(NODE("Tanh", ["x"], ["y"]), 3) == "Tanh_3"


def test_random_nodes_are_layers_though_they_read_nothing() -> None:
    noise = NODE("RandomNormal", [], ["r"], "noise", shape=[4], seed=1.0)
    assert [layer.node for layer in LayerGraph(model([noise, NODE("Add", ["x", "r"], ["y"], "add")])).layers] == [
        "noise",
        "add",
    ]


@pytest.mark.parametrize("make", [chain, branching])
def test_every_layer_runs_on_its_own_and_gives_what_it_gives_in_the_graph(make: object, tmp_path: Path) -> None:
    proto = make()  # type: ignore[operator]
    graph = LayerGraph(proto)
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    names = [name for layer in graph.layers for name in (*layer.inputs, *layer.outputs) if name not in ("x", "y")]
    whole.graph.output.extend(graph.info(name) for name in dict.fromkeys(names))
    known = {**rows(), **run_once(get("ort"), context(whole, tmp_path), rows())}
    for layer in graph.layers:
        part = graph.extract([layer.index])
        onnx.checker.check_model(part)
        feed = {name: known[name] for name in layer.inputs}
        for name, array in single(get("ort"), context(proto, tmp_path), part, feed).items():
            if name in known:
                np.testing.assert_array_equal(array, known[name])


def test_a_segment_has_the_inputs_and_results_of_its_borders() -> None:
    graph = LayerGraph(chain())
    assert graph.borders([1, 2]) == (("x",), ("b",))
    part = graph.extract([1, 2])
    assert [value.name for value in part.graph.input] == ["x"]
    assert [value.name for value in part.graph.output] == ["b"]
    assert [node.name for node in part.graph.node] == ["turn", "product", "squash"]  # the weight's Transpose comes too
    assert [tensor.name for tensor in part.graph.initializer] == ["w"]


def test_values_that_depend_on_weights_alone_are_computed(tmp_path: Path) -> None:
    proto = chain()
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    np.testing.assert_array_equal(LayerGraph(proto).constants(1, tmp_path)["wt"], weight.T)


def test_weights_in_a_file_of_their_own_are_read_when_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weight = onnx.numpy_helper.to_array(chain().graph.initializer[0])
    onnx.save(chain(), str(path), save_as_external_data=True, size_threshold=0, location="m.data")
    proto = onnx.load(str(path), load_external_data=False)
    graph = LayerGraph(proto)
    assert proto.ByteSize() < 2000
    np.testing.assert_array_equal(graph.constants(1, tmp_path)["wt"], weight.T)
    part = single(get("ort"), context(proto, tmp_path), graph.extract([1]), rows())
    np.testing.assert_allclose(part["a"], rows()["x"] @ weight.T, rtol=1e-5)


def test_sizes_of_tensors_follow_from_a_feed() -> None:
    graph = LayerGraph(chain())
    sizes = graph.dimensions(rows(7))
    assert sizes == {"n": 7}
    assert graph.elements("a", sizes) == 28
    assert graph.elements("a", {}) is None
    assert graph.elements("nobody", sizes) is None


def test_types_and_precisions() -> None:
    graph = LayerGraph(model([NODE("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)], kind=TensorProto.FLOAT))
    assert graph.dtype("x") == "float32"
    assert graph.precision("unknown") == "fp32"


def test_a_graph_that_shape_inference_cannot_read_has_layers_all_the_same() -> None:
    proto = model([NODE("Whatever", ["x"], ["a"], domain="strange"), NODE("Tanh", ["a"], ["y"])])
    proto.opset_import.append(helper.make_opsetid("strange", 1))
    graph = LayerGraph(proto)
    assert [layer.domain for layer in graph.layers] == ["strange", ""]
    assert graph.info("a").type.tensor_type.elem_type == TensorProto.FLOAT


def test_what_reads_or_writes_a_sequence_is_no_layer() -> None:
    parsed = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17]> g (float[3,2] x, int64 i) => (float[1,2] y)'
        " { t = Tanh (x) s = SplitToSequence <axis = 0> (t) a = SequenceAt (s, i) y = Exp (a) }"
    )
    graph = LayerGraph(parsed)
    assert [(layer.operator, layer.inputs) for layer in graph.layers] == [("Tanh", ("x",)), ("Exp", ("a",))]
