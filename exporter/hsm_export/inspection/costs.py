"""Floating-point operations and bytes of a node, by its operator: a multiply-add counts as two, nothing is fused."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsm_operators import Operator, expression

from ..onnx_model.file_operators import FileOperators
from ..onnx_model.shapes import TensorInfo

if TYPE_CHECKING:
    import onnx


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VIEWS = _names("Constant Flatten Identity Reshape Shape Size Squeeze Unsqueeze ConstantOfShape Range")
# Only the rows that are taken are read.
_SELECTIONS = _names("Gather GatherElements GatherND Slice Split")
_MOVES = _names(
    "And Cast CastLike Concat Equal Expand EyeLike Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual NonZero Not "
    "OneHot Or Pad ScatterElements ScatterND TensorScatter Tile TopK Transpose Trilu Unique Where Xor"
)
_ELEMENTWISE = _names(
    "Abs Add Ceil Clip Cos CumSum Div Elu Erf Exp Floor HardSigmoid LeakyRelu Log Max Mean Min Mod Mul Neg Pow "
    "Reciprocal Relu Round Sigmoid Sign Sin Softplus Sqrt Sub Sum Tanh"
)
_REDUCTIONS = _names(
    "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare"
)
_PER_OUTPUT_ELEMENT = {
    "Softmax": 5,
    "LogSoftmax": 5,
    "Swish": 2,
    "Gelu": 5,
    "HardSwish": 4,
    "LayerNormalization": 8,
    "RMSNormalization": 5,
}


@dataclass(frozen=True)
class Operands:
    """A node's tensors: inputs and outputs in order, absent ones left out, and its attributes."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    attributes: Mapping[str, Any]


def node_cost(
    node: onnx.NodeProto, tensors: Mapping[str, TensorInfo], operators: FileOperators
) -> tuple[int, int] | None:
    """Return a node's floating-point operations and bytes, or None where its operator or a shape is not known.

    Args:
        node: the node.
        tensors: the shapes of what it reads and writes.
        operators: the mixer operators, whose specifications say what they cost.
    """
    names = [name for name in (*node.input, *node.output) if name]
    if node.domain in ("", "ai.onnx") and node.op_type in _VIEWS:
        return 0, 0
    if any(name not in tensors for name in names):
        return None
    operands = operands_of(node, tensors)
    operator = operators.find(node)
    try:
        if operator is not None:
            return _operator_cost(operator, node, tensors, operands)
        flops = _flops(node, operands)
        return None if flops is None else (flops, _bytes(node, operands))
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError):
        return None  # the node contradicts its operator's signature


def operands_of(node: onnx.NodeProto, tensors: Mapping[str, TensorInfo]) -> Operands:
    """Return a node's known tensors and its attributes."""
    return Operands(
        tuple(tensors[name] for name in node.input if name in tensors),
        tuple(tensors[name] for name in node.output if name in tensors),
        attributes(node),
    )


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes, text as str and lists as lists; graphs are left out."""
    import onnx

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) or attribute.ref_attr_name:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def operator_details(operator: Operator, node: onnx.NodeProto, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Return what a user wants to know of a mixer operator's node, as its specification says: heads, shifts, …

    Without such details these are the attributes. What depends on a shape that is not known, or on an attribute that
    the node lacks, is left out.
    """
    flags = {attribute.name for attribute in operator.attributes if attribute.is_flag}
    values = _values(operator, node, tensors)
    found: dict[str, Any] = {}
    shown = operator.details or {attribute.name: attribute.name for attribute in operator.attributes}
    for name, text in shown.items():
        with contextlib.suppress(KeyError, ZeroDivisionError, TypeError):
            value = expression.value(text, values)
            found[name] = bool(value) if text in flags else value
    return found


def _values(operator: Operator, node: onnx.NodeProto, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Return a node's attributes and sizes by their names in the specification, and the size of T as `T_bytes`."""
    values: dict[str, Any] = attributes(node)
    for port, name in zip(operator.inputs, node.input, strict=False):
        if name in tensors:
            values |= dict(zip(port.shape, tensors[name].shape, strict=False))
            if port.type == "T":
                values["T_bytes"] = math.ceil(tensors[name].itemsize)
    return values


def _operator_cost(
    operator: Operator, node: onnx.NodeProto, tensors: Mapping[str, TensorInfo], operands: Operands
) -> tuple[int, int] | None:
    if operator.cost is None:
        return None
    values = _values(operator, node, tensors)
    flops = expression.evaluate(operator.cost.flops, values)
    moved = sum(tensor.bytes for tensor in (*operands.inputs, *operands.outputs))
    return flops, expression.evaluate(operator.cost.bytes, values) if operator.cost.bytes else moved


def _flops(node: onnx.NodeProto, operands: Operands) -> int | None:
    operator = node.op_type if node.domain in ("", "ai.onnx") else ""
    out = operands.outputs[0].size if operands.outputs else 0
    if operator in _PRODUCTS:
        return _PRODUCTS[operator](operands)
    if operator in _PER_OUTPUT_ELEMENT or operator in _ELEMENTWISE:
        return _PER_OUTPUT_ELEMENT.get(operator, 1) * out
    if operator in _REDUCTIONS:
        return operands.inputs[0].size
    return 0 if operator in _SELECTIONS or operator in _MOVES else None


def _bytes(node: onnx.NodeProto, operands: Operands) -> int:
    written = sum(tensor.bytes for tensor in operands.outputs)
    if node.op_type == "ScatterND" and not node.domain:
        # A host that decodes binds one buffer to both names: only the updated rows are written.
        _, indices, updates = operands.inputs
        return indices.bytes + 2 * updates.bytes
    if node.op_type in _SELECTIONS:
        return 2 * written + sum(tensor.bytes for tensor in operands.inputs[1:])
    return written + sum(tensor.bytes for tensor in operands.inputs)


def _matmul(operands: Operands) -> int:
    return 2 * operands.outputs[0].size * (operands.inputs[0].shape[-1] if operands.inputs[0].shape else 1)


def _gemm(operands: Operands) -> int:
    inner = operands.inputs[0].shape[0 if operands.attributes.get("transA") else 1]
    return (2 * inner + (len(operands.inputs) > 2)) * operands.outputs[0].size


def _conv(operands: Operands) -> int:
    return (2 * math.prod(operands.inputs[1].shape[1:]) + (len(operands.inputs) > 2)) * operands.outputs[0].size


def _einsum(operands: Operands) -> int:
    """All labels' sizes multiplied, as a naive loop over them would do."""
    terms = str(operands.attributes.get("equation", "")).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, operands.inputs, strict=False):
        sizes.update(zip(term, tensor.shape, strict=False))
    return 2 * math.prod(sizes.values())


_PRODUCTS: dict[str, Callable[[Operands], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Einsum": _einsum,
}
