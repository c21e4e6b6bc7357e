"""Promote a whole graph to float64, so that its own maths becomes an arbiter.

Everything that is a floating-point number becomes a double: initialisers, inputs, outputs, Cast targets, constants,
also inside Scan bodies. Rounding to a lower type in the middle of the graph disappears with the type.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..dtypes import WIDENED
from ..onnx_model.nodes import graphs_of

_TYPE_ATTRIBUTES = ("to", "dtype")
# A double copy of many weights would pass the 2 GB that a serialised model may hold; these are fed as inputs.
_LARGEST_INLINE = 1024


def promote(model: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, dict[str, NDArray[np.float64]]]:
    """Return a float64 copy of a graph without functions of domain `hsm` (inline them first).

    Args:
        model: the graph; its initialisers may lie in external data.
        folder: where the external data lies.

    Returns:
        The promoted model, and the large weights, which became inputs of the same names.
    """
    promoted = onnx.ModelProto()
    promoted.CopyFrom(model)
    weights = _promote_initializers(promoted.graph, folder)
    for graph in graphs_of(promoted.graph):
        if graph is not promoted.graph:
            _promote_constants(graph, folder)
        _promote_graph(graph)
    _spell_out_gelu(promoted)
    return promoted, weights


def spelled_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose Attention nodes are the standard operators that onnx defines them by.

    ONNX Runtime has an older definition than onnx, by which a row that sees no key is NaN, and none in double.
    """
    if not any(node.op_type == "Attention" and node.domain in ("", "ai.onnx") for node in model.graph.node):
        return model
    try:
        found: onnx.ModelProto = onnx.inliner.inline_selected_functions(
            model, [("", "Attention")], inline_schema_functions=True
        )
    except Exception:  # an older onnx, or a graph that its inference does not take: its evaluator has the definition
        return model
    return found


def _promote_initializers(graph: onnx.GraphProto, folder: Path) -> dict[str, NDArray[np.float64]]:
    """Turn the initialisers into doubles; move the large ones out of the graph and return them."""
    weights: dict[str, NDArray[np.float64]] = {}
    kept: list[onnx.TensorProto] = []
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor, str(folder))
        if tensor.data_type not in WIDENED:
            kept.append(numpy_helper.from_array(array, tensor.name))
        elif array.size <= _LARGEST_INLINE:
            kept.append(numpy_helper.from_array(array.astype(np.float64), tensor.name))
        else:
            weights[tensor.name] = array.astype(np.float64)
            if tensor.name not in inputs:
                graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.DOUBLE, array.shape))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return weights


def _promote_constants(graph: onnx.GraphProto, folder: Path) -> None:
    """Turn the initialisers of an inner graph, which nobody can feed, into doubles."""
    for tensor in graph.initializer:
        if tensor.data_type in WIDENED:
            array = numpy_helper.to_array(tensor, str(folder)).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _promote_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        _promote_type(value.type)
    for node in graph.node:
        for attribute in node.attribute:
            _promote_attribute(node, attribute)
        if node.op_type == "ConstantOfShape" and not node.attribute:
            # Zeros of type float32 are the default.
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _promote_type(of: onnx.TypeProto) -> None:
    kind = of.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        _promote_type(getattr(of, kind).elem_type)
    elif kind == "tensor_type" and of.tensor_type.elem_type in WIDENED:
        of.tensor_type.elem_type = TensorProto.DOUBLE


def _promote_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    if node.op_type == "BitCast":  # its bits are those of that very type
        return
    if attribute.type == onnx.AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES and attribute.i in WIDENED:
        attribute.i = TensorProto.DOUBLE
    elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in WIDENED:
        array = numpy_helper.to_array(attribute.t).astype(np.float64)
        attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = numpy_helper.from_array(np.asarray(values, dtype=np.float64))
        attribute.CopyFrom(helper.make_attribute("value", tensor))


def _spell_out_gelu(model: onnx.ModelProto) -> None:
    """Replace Gelu and Erf, which ONNX Runtime lacks in double, by functions of this file."""
    used = set()
    for graph in graphs_of(model.graph):
        for node in graph.node:
            exact = all(helper.get_attribute_value(item) == b"none" for item in node.attribute)
            if node.domain == "" and (node.op_type == "Erf" or (node.op_type == "Gelu" and exact)):
                del node.attribute[:]
                node.domain = _DOMAIN
                used.add(node.op_type)
    if used:
        opsets = [item for item in model.opset_import if item.domain == ""]
        model.functions.extend([_erf_function(opsets), _gelu_function(opsets)])
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))


_DOMAIN = "hsm_export.double"
# Rational approximations of erf by W. J. Cody (Math. Comp. 23, 1969), good to one unit in the last place.
_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_LARGE = (
    (
        2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
        2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
        3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
    ),
)  # fmt: skip
_SPLIT = 0.46875
_SATURATED = 6.0


class _Body:
    """Collects the nodes of a function; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def constant(self, value: float) -> str:
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, dtype=np.float64)))

    def polynomial(self, x: str, coefficients: tuple[float, ...]) -> str:
        """Evaluate a polynomial by Horner's rule, highest coefficient first."""
        result = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            result = self.op("Add", self.op("Mul", result, x), self.constant(coefficient))
        return result


def _erf_function(opsets: list[onnx.OperatorSetIdProto]) -> onnx.FunctionProto:
    body = _Body()
    one = body.constant(1.0)
    magnitude = body.op("Abs", "x")
    near = body.op("Min", magnitude, one)
    square = body.op("Mul", near, near)
    small_ratio = body.op("Div", body.polynomial(square, _SMALL[0]), body.polynomial(square, _SMALL[1]))
    small = body.op("Mul", "x", small_ratio)
    far = body.op("Min", magnitude, body.constant(_SATURATED))
    decay = body.op("Exp", body.op("Neg", body.op("Mul", far, far)))
    far_ratio = body.op("Div", body.polynomial(far, _LARGE[0]), body.polynomial(far, _LARGE[1]))
    large = body.op("Mul", body.op("Sign", "x"), body.op("Sub", one, body.op("Mul", decay, far_ratio)))
    chosen = body.op("Where", body.op("LessOrEqual", magnitude, body.constant(_SPLIT)), small, large)
    body.op("Where", body.op("IsNaN", "x"), "x", chosen, output="y")
    return helper.make_function(_DOMAIN, "Erf", ["x"], ["y"], body.nodes, opsets)


def _gelu_function(opsets: list[onnx.OperatorSetIdProto]) -> onnx.FunctionProto:
    body = _Body()
    scaled = body.op("Mul", "x", body.constant(math.sqrt(0.5)))
    body.nodes.append(helper.make_node("Erf", [scaled], ["erf"], domain=_DOMAIN))
    gate = body.op("Add", "erf", body.constant(1.0))
    body.op("Mul", body.op("Mul", "x", body.constant(0.5)), gate, output="y")
    imports = [*opsets, helper.make_opsetid(_DOMAIN, 1)]
    return helper.make_function(_DOMAIN, "Gelu", ["x"], ["y"], body.nodes, imports)
