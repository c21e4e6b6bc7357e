"""What an operator of domain `hsm` is: its signature, its attributes, and its maths as an ONNX function body.

Rules that every body follows, because the runtimes force them:

- one body serves all values of the attributes: some parsers keep a single body per name, so a numeric attribute is
  arithmetic in the body and a structural difference is another operator;
- no optional inputs, no attribute defaults: every node writes every attribute;
- floats are cast to float32 on entry and back to the input's type on exit, so that sums accumulate in float32 and
  bfloat16 runs where a runtime has no bfloat16 arithmetic;
- sizes are read from the inputs at run time; no length is built in, and no tensor is ever empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import onnx.parser
from onnx.defs import OpSchema

DOMAIN = "hsm"
VERSION = 1
PLUGIN_NAMESPACE = "hsm"
PLUGIN_VERSION = "1"
OPSET_VERSION = 21

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")

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


@dataclass(frozen=True)
class Value:
    """One input or output.

    Attributes:
        name: name of the formal parameter.
        type: "T" (float32, float16 or bfloat16, the same for all of a node's values) or one ONNX type.
        shape: names of the dimensions; equal names are equal sizes, "1" and "F" style names included.
        description: what it holds.
    """

    name: str
    type: str
    shape: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Attribute:
    """One attribute; every node carries it.

    Attributes:
        name: the attribute's name, also the name of the PyTorch operator's argument.
        type: "int" or "ints".
        description: what it means.
    """

    name: str
    type: str
    description: str


PLUGIN_ATTRIBUTES = ("plugin_namespace", "plugin_version")


@dataclass(frozen=True)
class Operator:
    """An operator of domain `hsm`.

    Attributes:
        name: the operator's name.
        description: what it computes, in one sentence or two.
        inputs: all of them required.
        outputs: all of them present.
        attributes: all of them written on every node, besides `plugin_namespace` and `plugin_version`.
        body: nodes in ONNX's text format, sorted so that each follows what it reads.
    """

    name: str
    description: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: tuple[Attribute, ...]
    body: str

    def function(self, opset_version: int = OPSET_VERSION) -> onnx.FunctionProto:
        """Return the body as a model-local function.

        Args:
            opset_version: version of ONNX's own operators; must be the model's.
        """
        attributes = ", ".join((*(attribute.name for attribute in self.attributes), *PLUGIN_ATTRIBUTES))
        inputs = ", ".join(value.name for value in self.inputs)
        outputs = ", ".join(value.name for value in self.outputs)
        function: onnx.FunctionProto = onnx.parser.parse_function(
            f'<domain: "{DOMAIN}", opset_import: ["": {opset_version}]>\n'
            f"{self.name} <{attributes}> ({inputs}) => ({outputs}) {{{_CONSTANTS}{self.body}}}"
        )
        function.doc_string = self.description
        _drop_unused_nodes(function)
        return function

    @property
    def schema(self) -> OpSchema:
        """The operator's signature as ONNX describes its own, with inference of types and shapes."""
        schema = OpSchema(
            self.name,
            DOMAIN,
            VERSION,
            self.description,
            inputs=[_formal_parameter(value) for value in self.inputs],
            outputs=[_formal_parameter(value) for value in self.outputs],
            type_constraints=[("T", list(FLOATS), "The type of activations and weights.")],
            attributes=self._schema_attributes(),
        )
        schema.set_type_and_shape_inference_function(self._infer)
        return schema

    def _schema_attributes(self) -> list[OpSchema.Attribute]:
        types = {"int": OpSchema.AttrType.INT, "ints": OpSchema.AttrType.INTS}
        declared = [OpSchema.Attribute(a.name, types[a.type], a.description) for a in self.attributes]
        plugin = [OpSchema.Attribute(name, OpSchema.AttrType.STRING, "For TensorRT.") for name in PLUGIN_ATTRIBUTES]
        return declared + plugin

    def _infer(self, context: onnx.shape_inference.InferenceContext) -> None:
        """Give each output the type of T or its own, and the sizes that its dimensions have in the inputs."""
        sizes: dict[str, onnx.TensorShapeProto.Dimension] = {}
        element_type = 0
        for index, value in enumerate(self.inputs):
            tensor = context.get_input_type(index).tensor_type
            if value.type == "T" and not element_type:
                element_type = tensor.elem_type
            if not tensor.HasField("shape"):
                continue
            if len(tensor.shape.dim) != len(value.shape):
                raise onnx.shape_inference.InferenceError(
                    f"input {value.name} of {self.name} must have {len(value.shape)} dimensions {value.shape}"
                )
            for name, size in zip(value.shape, tensor.shape.dim, strict=True):
                if name not in sizes or size.HasField("dim_value"):
                    sizes[name] = size
        for index, value in enumerate(self.outputs):
            output = onnx.TypeProto()
            output.tensor_type.elem_type = element_type if value.type == "T" else _ELEMENT_TYPES[value.type]
            output.tensor_type.shape.dim.extend(
                sizes.get(name, onnx.TensorShapeProto.Dimension()) for name in value.shape
            )
            context.set_output_type(index, output)


_ELEMENT_TYPES = {"tensor(float)": onnx.TensorProto.FLOAT, "tensor(int64)": onnx.TensorProto.INT64}


def _formal_parameter(value: Value) -> OpSchema.FormalParameter:
    return OpSchema.FormalParameter(value.name, value.type, f"({', '.join(value.shape)}): {value.description}")


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
