"""Signatures and bodies hold the rules that the runtimes force."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from tests.operators.harness import ANY_ATTRIBUTES, DTYPES, element_type, one_node_model

from hsm_operators import DOMAIN, OPERATORS, Operator, Port

BY_NAME = pytest.mark.parametrize("name", OPERATORS)


def _all_nodes(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    found = []
    for node in nodes:
        found.append(node)
        for attribute in node.attribute:
            found += _all_nodes(list(attribute.g.node))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@BY_NAME
def test_checker_and_strict_shape_inference_with_dynamic_sizes(name: str, dtype: str) -> None:
    model = one_node_model(name, ANY_ATTRIBUTES[name], dtype)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [o.type.tensor_type.elem_type for o in inferred.graph.output] == [
        element_type(value, dtype) for value in OPERATORS[name].outputs
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@BY_NAME
def test_types_and_ranks_of_the_outputs_follow_from_the_body_alone(name: str, dtype: str) -> None:
    model = one_node_model(name, ANY_ATTRIBUTES[name], dtype)
    declared = [(o.name, o.type.tensor_type.elem_type, len(o.type.tensor_type.shape.dim)) for o in model.graph.output]
    for output in model.graph.output:
        output.type.Clear()
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    found = [(o.name, o.type.tensor_type.elem_type, len(o.type.tensor_type.shape.dim)) for o in inferred.graph.output]
    assert found == declared


@pytest.mark.parametrize("dtype", DTYPES)
@BY_NAME
def test_the_schema_infers_types_and_sizes(name: str, dtype: str) -> None:
    operator, model = OPERATORS[name], one_node_model(name, ANY_ATTRIBUTES[name], dtype, {"D": 12, "d": 8, "e": 5})
    inferred = onnx.shape_inference.infer_node_outputs(
        operator.schema,
        model.graph.node[0],
        {value.name: value.type for value in model.graph.input},
        opset_imports=[helper.make_opsetid(DOMAIN, 1)],
    )
    assert inferred == {value.name: value.type for value in model.graph.output}


@BY_NAME
def test_the_schema_refuses_a_wrong_rank(name: str) -> None:
    model = one_node_model(name, ANY_ATTRIBUTES[name])
    types = {value.name: value.type for value in model.graph.input}
    next(iter(types.values())).tensor_type.shape.dim.add()
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_node_outputs(
            OPERATORS[name].schema, model.graph.node[0], types, opset_imports=[helper.make_opsetid(DOMAIN, 1)]
        )


@BY_NAME
def test_rules_of_the_bodies(name: str) -> None:
    function = OPERATORS[name].function()
    nodes = _all_nodes(list(function.node))
    assert not {node.op_type for node in nodes} & {"If", "Loop"}, "control flow makes engines slower"
    assert {node.domain for node in nodes} == {""}
    assert not function.attribute_proto, "defaults break the reference evaluator"
    assert set(function.attribute) == {*ANY_ATTRIBUTES[name], "plugin_namespace", "plugin_version"}
    for node in nodes:
        if node.op_type == "Cast":
            assert helper.get_attribute_value(node.attribute[0]) == TensorProto.FLOAT
        for attribute in node.attribute:
            assert not attribute.ref_attr_name or node.op_type == "Constant"


@BY_NAME
def test_nodes_follow_what_they_read_and_all_are_used(name: str) -> None:
    function = OPERATORS[name].function()
    known = set(function.input)
    for node in function.node:
        assert set(node.input) <= known
        known.update(node.output)
    read = {value for node in _all_nodes(list(function.node)) for value in node.input} | set(function.output)
    inner = {value.name for n in function.node for a in n.attribute for value in a.g.output}
    for node in function.node:
        assert read.intersection(node.output) | inner.intersection(node.output)


@pytest.mark.parametrize("version", [18, 21, 23])
@BY_NAME
def test_the_body_carries_the_models_opset_version(name: str, version: int) -> None:
    function = OPERATORS[name].function(version)
    assert [(item.domain, item.version) for item in function.opset_import] == [("", version)]


def test_types_that_no_operator_has_yet_are_inferred_too() -> None:
    """An operator may return integers."""
    operator = Operator(
        name="Count",
        description="The lengths as they are.",
        inputs=(Port("lengths", "tensor(int64)", ("B",), "Lengths."),),
        outputs=(Port("count", "tensor(int64)", ("B",), "The same."),),
        attributes=(),
        body="count = Identity (lengths)",
    )
    assert [node.op_type for node in operator.function().node] == ["Identity"]
    node = helper.make_node("Count", ["lengths"], ["count"], domain=DOMAIN, plugin_namespace="", plugin_version="")
    kind = helper.make_tensor_type_proto(TensorProto.INT64, [3])
    inferred = onnx.shape_inference.infer_node_outputs(
        operator.schema, node, {"lengths": kind}, opset_imports=[helper.make_opsetid(DOMAIN, 1)]
    )
    assert inferred == {"count": kind}
