"""An operator as ONNX knows it: a model-local function with its body, and a schema that infers types and shapes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
from onnx.defs import OpSchema

from .operator import BOOL, FLOAT, FLOATS, INT64, PLUGIN_ATTRIBUTES, UINT8, Operator, Port

# Constants that any body may name; those that it does not use are dropped from the function.
# Plural-looking names (zero, one, ..., last, end) are vectors of one element, as axes and sizes are; i* are scalars.
_CONSTANTS = """
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  two = Constant <value_ints = [2]> ()
  three = Constant <value_ints = [3]> ()
  last = Constant <value_ints = [-1]> ()
  end = Constant <value_ints = [9223372036854775807]> ()
  i0 = Constant <value_int = 0> ()
  i1 = Constant <value_int = 1> ()
  i2 = Constant <value_int = 2> ()
  f0 = Constant <value_float = 0.0> ()
  f1 = Constant <value_float = 1.0> ()
  half = Constant <value_float = 0.5> ()
"""


def function(operator: Operator, opset_version: int, *, loop_free: bool = False) -> onnx.FunctionProto:
    """Return an operator's body, or the one without loops, as a model-local function for a version of ONNX's own
    operators."""
    body = (operator.loop_free_body if loop_free else "") or operator.body
    attributes = ", ".join((*(attribute.name for attribute in operator.attributes), *PLUGIN_ATTRIBUTES))
    inputs = ", ".join(port.name for port in operator.inputs)
    outputs = ", ".join(port.name for port in operator.outputs)
    parsed: onnx.FunctionProto = onnx.parser.parse_function(
        f'<domain: "{operator.domain}", opset_import: ["": {opset_version}]>\n'
        f"{operator.name} <{attributes}> ({inputs}) => ({outputs}) {{{_CONSTANTS}{body}}}"
    )
    parsed.doc_string = operator.description
    _drop_unused_nodes(parsed)
    _settle(parsed.node)
    return parsed


def _settle(nodes: Iterable[onnx.NodeProto]) -> None:
    """Name the nodes of a body after their results, and hold constants as tensors: some runtimes know no other form."""
    for node in nodes:
        node.name = next(filter(None, node.output))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _settle(attribute.g.node)
        if node.op_type == "Constant" and not node.attribute[0].ref_attr_name:
            (attribute,) = node.attribute
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name != "value":
                dtype = np.int64 if attribute.name.startswith("value_int") else np.float32
                tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype))
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def schema(operator: Operator) -> OpSchema:
    """Return an operator's signature."""
    described = OpSchema(
        operator.name,
        operator.domain,
        operator.version,
        operator.description,
        inputs=[_formal_parameter(port) for port in operator.inputs],
        outputs=[_formal_parameter(port) for port in operator.outputs],
        type_constraints=[("T", list(FLOATS), "The type of activations and weights.")],
        attributes=_schema_attributes(operator),
    )
    described.set_type_and_shape_inference_function(lambda context: _infer(operator, context))
    return described


def _schema_attributes(operator: Operator) -> list[OpSchema.Attribute]:
    kinds = OpSchema.AttrType
    types = {"int": kinds.INT, "ints": kinds.INTS, "float": kinds.FLOAT}
    declared = [OpSchema.Attribute(a.name, types[a.type], a.description) for a in operator.attributes]
    plugin = [OpSchema.Attribute(name, OpSchema.AttrType.STRING, "For TensorRT.") for name in PLUGIN_ATTRIBUTES]
    return declared + plugin


def _infer(operator: Operator, context: onnx.shape_inference.InferenceContext) -> None:
    """Give each output the type of T or its own, and the sizes that its dimensions have in the inputs."""
    sizes: dict[str, onnx.TensorShapeProto.Dimension] = {}
    element_type = 0
    for index, value in enumerate(operator.inputs):
        tensor = context.get_input_type(index).tensor_type
        if value.type == "T" and not element_type:
            element_type = tensor.elem_type
        if not tensor.HasField("shape"):
            continue
        if len(tensor.shape.dim) != len(value.shape):
            raise onnx.shape_inference.InferenceError(
                f"input {value.name} of {operator.name} must have {len(value.shape)} dimensions {value.shape}"
            )
        for name, size in zip(value.shape, tensor.shape.dim, strict=True):
            if name not in sizes or size.HasField("dim_value"):
                sizes[name] = size
    for index, value in enumerate(operator.outputs):
        output = onnx.TypeProto()
        output.tensor_type.elem_type = element_type if value.type == "T" else _ELEMENT_TYPES[value.type]
        output.tensor_type.shape.dim.extend(sizes.get(name, onnx.TensorShapeProto.Dimension()) for name in value.shape)
        context.set_output_type(index, output)


_ELEMENT_TYPES = {
    FLOAT: onnx.TensorProto.FLOAT,
    INT64: onnx.TensorProto.INT64,
    BOOL: onnx.TensorProto.BOOL,
    UINT8: onnx.TensorProto.UINT8,
}


def _formal_parameter(port: Port) -> OpSchema.FormalParameter:
    return OpSchema.FormalParameter(port.name, port.type, f"({', '.join(port.shape)}): {port.description}")


def _drop_unused_nodes(function: onnx.FunctionProto) -> None:
    """Keep the nodes that an output depends on."""
    needed = set(function.output)
    kept: list[onnx.NodeProto] = []
    for node in reversed(function.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_reads(node))
    del function.node[:]
    function.node.extend(reversed(kept))


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """Yield what a node reads, and what the graphs inside it read from outside (and some names of their own)."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from (value.name for value in attribute.g.output)
            for inner in attribute.g.node:
                yield from _reads(inner)
