"""What the builder's parser gets: bodies stripped for plugins, inlined for everything else."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from tests.exporter.building.hand_made import token_model
from tests.exporter.building.test_operators import one_node_model

from hsm_export.building.network import network_bytes, plugin_nodes, strip_bodies
from hsm_operators import OPERATORS, functions_for, make_node
from hsm_operators.registry import part_of


def test_without_plugins_no_node_of_ours_is_left(tmp_path: Path) -> None:
    path = one_node_model(tmp_path / "m.onnx", "ShiftMix", "fp32")
    network = onnx.load_from_string(network_bytes(path, plugins=()))
    assert not network.functions
    assert not plugin_nodes(network)


def test_with_plugins_no_body_is_left_to_fall_back_to(tmp_path: Path) -> None:
    path = one_node_model(tmp_path / "m.onnx", "ShiftMix", "fp32")
    network = onnx.load_from_string(network_bytes(path, plugins=OPERATORS))
    assert not network.functions
    assert plugin_nodes(network) == {"layers.0.mixer": "ShiftMix"}
    (node,) = network.graph.node
    assert {"plugin_namespace", "plugin_version"} <= {attribute.name for attribute in node.attribute}


def test_stripping_inlines_other_functions_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model = onnx.load(one_node_model(tmp_path / "m.onnx", "TokenShift", "fp32"))
    nodes = [helper.make_node("Add", ["a", "a"], ["b"])]
    imports = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], nodes, imports))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    result = model.graph.node[0].output[0]
    model.graph.node[0].output[0] = "shifted"
    model.graph.node.append(helper.make_node("Twice", ["shifted"], [result], name="twice", domain="mine"))
    before = model.SerializeToString()
    stripped = strip_bodies(model, OPERATORS)
    assert not stripped.functions
    assert [(node.domain, node.op_type) for node in stripped.graph.node] == [("hsm", "TokenShift"), ("", "Add")]
    assert stripped.graph.node[1].name == "twice.y"
    assert stripped.metadata_props == model.metadata_props
    assert model.SerializeToString() == before


def test_nameless_nodes_get_names_that_the_plan_knows_too() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", 4]) for name in "xy")
    nodes = [make_node("TokenShift", ["x"], ["h"], shifts=[1]), make_node("TokenShift", ["h"], ["y"], shifts=[2])]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("hsm", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=imports)
    model.functions.extend(functions_for(model))
    names = [node.name for node in strip_bodies(model, OPERATORS).graph.node]
    assert names == ["TokenShift_0", "TokenShift_1"] == list(plugin_nodes(model))


def test_nodes_inside_a_loops_body_count() -> None:
    inner = helper.make_graph(
        [make_node("TokenShift", ["x"], ["y"], "inner", shifts=[1])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    assert plugin_nodes(helper.make_model(graph)) == {"inner": "TokenShift"}


def test_external_weights_stay_outside(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", external=True)
    for plugins in ((), tuple(OPERATORS)):
        network = onnx.load_from_string(network_bytes(path, plugins=plugins))
        assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in network.graph.initializer)


def test_operators_without_a_plugin_are_compiled_from_their_bodies(tmp_path: Path) -> None:
    specs = {operator.name: part_of(operator, "spec") for operator in OPERATORS.values()}
    kernels = {name: (Path(str(spec.__file__)).parent / "cuda.cu").is_file() for name, spec in specs.items()}
    assert kernels == {operator.name: operator.plugin for operator in OPERATORS.values()}
    name = next(name for name, has_kernel in kernels.items() if not has_kernel)
    model = onnx.load(one_node_model(tmp_path / "m.onnx", name, "fp32"))
    assert plugin_nodes(model) == {}
    assert not [node for node in strip_bodies(model, {"TaylorShift"}).graph.node if node.domain == "hsm"]
