"""ONNX files that are right and yet unlike what exporters of networks write, one a kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Value = onnx.ValueInfoProto
T = TensorProto
_tensor = helper.make_tensor_value_info


def _model(
    nodes: list[onnx.NodeProto], inputs: list[Value], outputs: list[Value], **weights: object
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "odd", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _one(
    operator: str, kind: int, shape: list[object] | None, result: int | None = None, **attributes: object
) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    return _model([node], [_tensor("x", kind, shape)], [_tensor("y", result or kind, shape)])


def _quantised() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    weight, scale = np.arange(12, dtype=np.int8).reshape(3, 4), np.float32(0.1)
    return _model(nodes, [_tensor("x", T.FLOAT, ["b", 3])], [_tensor("y", T.FLOAT, ["b", 4])], w=weight, s=scale)


def _double() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((3, 4))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _model([node], [_tensor("x", T.DOUBLE, ["b", 3])], [_tensor("y", T.DOUBLE, ["b", 4])], w=weight)


def _sequence(of_inputs: bool) -> onnx.ModelProto:
    several = helper.make_tensor_sequence_value_info("x" if of_inputs else "y", T.FLOAT, None)
    tensor = _tensor("y" if of_inputs else "x", T.FLOAT, None if of_inputs else [4, 2])
    if of_inputs:
        return _model([helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)], [several], [tensor])
    return _model([helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)], [tensor], [several])


def _optional() -> onnx.ModelProto:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(T.FLOAT, [2]))
    node = helper.make_node("OptionalGetElement", ["x"], ["y"])
    return _model([node], [helper.make_value_info("x", kind)], [_tensor("y", T.FLOAT, [2])])


def _weights_are_inputs() -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    ends = [_tensor(name, T.FLOAT, [3]) for name in "xwy"]
    return _model([node], ends[:2], ends[2:], w=np.ones(3, np.float32))


def _no_inputs() -> onnx.ModelProto:
    node = helper.make_node("Neg", ["w"], ["y"])
    return _model([node], [], [_tensor("y", T.FLOAT, [3])], w=np.ones(3, np.float32))


ODD_FILES: dict[str, Callable[[], onnx.ModelProto]] = {
    "float64": _double,
    "quantised": _quantised,
    "text": lambda: _one("StringNormalizer", T.STRING, ["n"], case_change_action="LOWER"),
    "text out of numbers": lambda: _one("Cast", T.FLOAT, [3], T.STRING, to=T.STRING),
    "Booleans": lambda: _one("Not", T.BOOL, ["n"]),
    "int16": lambda: _one("Identity", T.INT16, ["n"]),
    "complex numbers": lambda: _one("Identity", T.COMPLEX64, [2]),
    "float8": lambda: _one("Identity", T.FLOAT8E4M3FN, [2]),
    "int4": lambda: _one("Identity", T.INT4, [2]),
    "bfloat16": lambda: _one("Identity", T.BFLOAT16, ["n", 2]),
    "a scalar": lambda: _one("Neg", T.FLOAT, []),
    "no shapes": lambda: _one("Neg", T.FLOAT, None),
    "a size of zero": lambda: _one("Neg", T.FLOAT, [2, 0]),
    "a negative size": lambda: _one("Neg", T.FLOAT, [-1, 3]),
    "sequence in": lambda: _sequence(True),
    "sequence out": lambda: _sequence(False),
    "optional": _optional,
    "weights as inputs": _weights_are_inputs,
    "no inputs": _no_inputs,
    "nothing found": lambda: _one("NonZero", T.FLOAT, None, T.INT64),
}
