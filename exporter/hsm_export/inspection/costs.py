"""Floating-point operations and bytes of a node, by its operator: a multiply-add counts as two, nothing is fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsm_operators import DOMAIN, OPERATORS

from .shapes import TensorInfo

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


def node_cost(node: onnx.NodeProto, tensors: Mapping[str, TensorInfo]) -> tuple[int, int] | None:
    """Return a node's floating-point operations and bytes, or None where its operator or a shape is not known."""
    names = [name for name in (*node.input, *node.output) if name]
    if node.domain in ("", "ai.onnx") and node.op_type in _VIEWS:
        return 0, 0
    if any(name not in tensors for name in names):
        return None
    operands = operands_of(node, tensors)
    try:
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


def hsm_details(operator: str, operands: Operands) -> dict[str, Any]:
    """Return what a user wants to know of an `hsm` node: shifts, heads H, head width d, experts E, active k."""
    named = dict(zip((value.name for value in OPERATORS[operator].inputs), operands.inputs, strict=False))
    given = operands.attributes
    if "weight" in named:
        heads, experts, rows, columns = named["weight"].shape
        width, head_dim = (rows, columns) if operator == "ExpertMatMul" else (columns, rows)
        return {"heads": heads, "experts": experts, "active": given.get("k"), "width": width, "head_dim": head_dim}
    if "q" in named:
        *_, heads, head_dim = named["q"].shape
        flags = {name: bool(given[name]) for name in ("normalize", "output_norm") if name in given}
        return {"heads": heads, "head_dim": head_dim, **flags}
    details = {"shifts": [int(shift) for shift in given.get("shifts", ())], "width": operands.inputs[0].shape[-1]}
    return details | ({"ring": named["ring"].shape[1]} if "ring" in named else {})


FORMULAS = {
    "TokenShift": "0",
    "TokenShiftCached": "0",
    "ShiftMix": "3D",
    "ShiftMixCached": "3D",
    "TaylorShift": "H·min(4Td + 4T, 4F(d+1) + d(d+1)) + 8Hd, F = 1+d+d(d+1)/2",
    "TaylorShiftMasked": "H·min(4Td + 4T, 4F(d+1) + d(d+1)) + 8Hd, F = 1+d+d(d+1)/2",
    "CausalTaylorShift": "H·(4F(d+1) + d(d+1)) + 8Hd, F = 1+d+d(d+1)/2",
    "ExpertMatMul": "2kHDf",
    "ExpertMatMulSum": "2kHDf",
}


def _flops(node: onnx.NodeProto, operands: Operands) -> int | None:
    if node.domain == DOMAIN:
        rule = _HSM_FLOPS.get(node.op_type)
        return None if rule is None else rule(operands)
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
    if node.domain == DOMAIN and node.op_type in ("ExpertMatMul", "ExpertMatMulSum"):
        x, logits, weight = operands.inputs
        experts = weight.shape[1]
        touched = min(experts, int(operands.attributes["k"]) * math.prod(x.shape[:2]))
        return x.bytes + logits.bytes + weight.bytes * touched // experts + written
    if node.domain == DOMAIN and node.op_type in ("TokenShiftCached", "ShiftMixCached"):
        # Kernels update the ring in place: each new token reads and writes one row per channel.
        x = operands.inputs[0]
        return 4 * x.bytes + sum(tensor.bytes for tensor in operands.inputs[1:] if len(tensor.shape) == 1)
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


def _shift_mix(operands: Operands) -> int:
    return 3 * operands.inputs[0].size


def _taylor_shift(operands: Operands) -> int:
    batch, length, heads, d = operands.inputs[0].shape
    direct = 4 * length * length * (d + 1)
    return batch * heads * (min(direct, _efficient(length, d)) + 8 * length * d)


def _causal_taylor_shift(operands: Operands) -> int:
    batch, length, heads, d = operands.inputs[0].shape
    return batch * heads * (_efficient(length, d) + 8 * length * d)


def _efficient(length: int, d: int) -> int:
    """Sums over keys and queries of F packed features times d values and the normaliser, and the features."""
    features = 1 + d + d * (d + 1) // 2
    return length * (4 * features * (d + 1) + d * (d + 1))


def _expert_matmul(operands: Operands) -> int:
    x, _, weight = operands.inputs
    heads, _, rows, columns = weight.shape
    return 2 * int(operands.attributes["k"]) * heads * rows * columns * math.prod(x.shape[:2])


_PRODUCTS: dict[str, Callable[[Operands], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Einsum": _einsum,
}
_HSM_FLOPS: dict[str, Callable[[Operands], int]] = {
    "TokenShift": lambda operands: 0,
    "TokenShiftCached": lambda operands: 0,
    "ShiftMix": _shift_mix,
    "ShiftMixCached": _shift_mix,
    "TaylorShift": _taylor_shift,
    "TaylorShiftMasked": _taylor_shift,
    "CausalTaylorShift": _causal_taylor_shift,
    "ExpertMatMul": _expert_matmul,
    "ExpertMatMulSum": _expert_matmul,
}
