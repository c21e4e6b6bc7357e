"""Concrete shapes of every tensor of a graph, for given sizes of its dynamic dimensions."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dtypes import item_size
from .file_operators import FileOperators

if TYPE_CHECKING:
    import onnx

    from hsm_operators import Operator

_SMALL = 64


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's shape and element size in bytes."""

    shape: tuple[int, ...]
    itemsize: float

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return math.ceil(self.size * self.itemsize)


def constant_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the outputs of nodes that every runtime computes once, while it loads: they depend on weights only."""
    constants = {tensor.name for tensor in graph.initializer}
    folded = set()
    for node in graph.node:
        if not node.domain and node.input and all(name in constants for name in node.input if name):
            folded.update(node.output)
            constants.update(node.output)
    return folded


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the same tensors without weights and without bodies of known operators."""
    import onnx

    operators = FileOperators(model)
    known = {(node.domain, node.op_type) for node, _ in operators.nodes(model.graph)}
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(entry for entry in model.opset_import)
    light.functions.extend(body for body in model.functions if (body.domain, body.name) not in known)
    initialised = set()
    for tensor in model.graph.initializer:
        initialised.add(tensor.name)
        if math.prod(tensor.dims) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    light.graph.name = "skeleton"
    light.graph.input.extend(value for value in model.graph.input if value.name not in initialised)
    light.graph.value_info.extend(model.graph.value_info)
    light.graph.output.extend(model.graph.output)
    for node in model.graph.node:
        operator = operators.find(node)
        light.graph.node.extend([node] if operator is None else _stand_in(node, operator))
    return light


def infer(light: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, TensorInfo]:
    """Return the tensors whose shapes are known once the dynamic dimensions have these sizes (others: 1).

    Args:
        light: from `skeleton`; it is not changed.
        sizes: sizes by name of the dimension.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(light)
    for value in (*fixed.graph.input, *fixed.graph.value_info, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                _fix(dim, sizes)
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        inferred = fixed
    found = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        info = _info(value)
        if info is not None:
            found[value.name] = info
    for tensor in inferred.graph.initializer:
        found[tensor.name] = TensorInfo(tuple(tensor.dims), item_size(tensor.data_type))
    return found


def _fix(dim: onnx.TensorShapeProto.Dimension, sizes: Mapping[str, int]) -> None:
    """Turn a dimension's name or expression (`length`, `length + 1`, `2*length`) into its size, if it is known."""
    try:
        size = _evaluate(ast.parse(dim.dim_param, mode="eval").body, sizes)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError, RecursionError, MemoryError):
        dim.Clear()
        return
    if 0 <= size < 2**63:
        dim.dim_value = size
    else:
        dim.Clear()


def _evaluate(node: ast.AST, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    raise ValueError("not a sum, difference, product or quotient of sizes")


_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _info(value: onnx.ValueInfoProto) -> TensorInfo | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return TensorInfo(tuple(dim.dim_value for dim in tensor.shape.dim), item_size(tensor.elem_type))


def _stand_in(node: onnx.NodeProto, known: Operator) -> list[onnx.NodeProto]:
    """Return standard nodes with the outputs' shapes of an operator, so that inference needs no function bodies.

    An output whose dimensions are those of an input copies it; any other is a product that sums the rest away.
    """
    import onnx

    if len(node.input) != len(known.inputs) or len(node.output) != len(known.outputs):
        return []
    stand_ins = []
    for output, name in zip(known.outputs, node.output, strict=True):
        alike = [given for value, given in zip(known.inputs, node.input, strict=True) if value.shape == output.shape]
        if alike:
            stand_ins.append(onnx.helper.make_node("Identity", alike[:1], [name]))
        else:
            equation = _equation([value.shape for value in known.inputs], output.shape)
            stand_ins.append(onnx.helper.make_node("Einsum", list(node.input), [name], equation=equation))
    return stand_ins


def _equation(inputs: list[tuple[str, ...]], output: tuple[str, ...]) -> str:
    letters = {name: chr(ord("a") + index) for index, name in enumerate(dict.fromkeys(sum((*inputs, output), ())))}
    terms = ["".join(letters[name] for name in shape) for shape in (*inputs, output)]
    return f"{','.join(terms[:-1])}->{terms[-1]}"
