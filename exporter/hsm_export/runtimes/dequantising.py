"""Weights of few bits as plain weights in float64: what a quantised file means, in operators that every runtime has.

ONNX Runtime has no kernels in double for its blockwise operators, nor for DequantizeLinear. Where their weights are
constants, which are exact in double, a plain product says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..onnx_model.quantisation_record import INT8_ACTIVATIONS
from .contrib import block_table, nbits_weight

Array = NDArray[Any]

_MICROSOFT = "com.microsoft"


def with_plain_weights(model: onnx.ModelProto, fed: Mapping[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a promoted graph without quantised weights, and the large weights that are fed to it.

    Args:
        model: what `double_precision.promote` returns; it is changed where it has quantised weights.
        fed: the weights that became inputs.
    """
    plain = _Plain(model, fed)
    if any(_is_quantised(node) for node in model.graph.node):
        plain.replace_nodes()
    return model, plain.fed


def _is_quantised(node: onnx.NodeProto) -> bool:
    return (node.domain == _MICROSOFT and node.op_type in ("MatMulNBits", "GatherBlockQuantized")) or (
        node.op_type == "DequantizeLinear"
    )


class _Plain:
    """A graph whose quantised weights are being replaced."""

    def __init__(self, model: onnx.ModelProto, fed: Mapping[str, Array]) -> None:
        self._graph = model.graph
        self.fed = dict(fed)
        self._stored = {item.name: item for item in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def replace_nodes(self) -> None:
        """Replace what can be replaced; the rest stays as it is."""
        nodes: list[onnx.NodeProto] = []
        for node in self._graph.node:
            nodes += self._replaced(node) if _is_quantised(node) else [node]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(kept)

    def _replaced(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        own = node.input[1:] if node.op_type == "MatMulNBits" else node.input
        places = {"MatMulNBits": (0, 1, 2), "GatherBlockQuantized": (0, 2, 3), "DequantizeLinear": (0, 1, 2)}[
            node.op_type
        ]
        names = [own[place] if place < len(own) else "" for place in places]
        arrays = [self._constant(name) if name else None for name in names]
        if any(name and array is None for name, array in zip(names, arrays, strict=True)):
            return [node]
        data, scales, zeros = arrays
        assert data is not None and scales is not None
        result = node.output[0]
        if node.op_type == "DequantizeLinear":
            self._feed(result, _dequantised(data, scales, zeros, **attributes))
            return []
        weight = f"{result}.plain_weight"
        if node.op_type == "GatherBlockQuantized":
            gather_axis = attributes.pop("gather_axis", 0)
            self._feed(weight, block_table(data, scales, zeros, **attributes))
            return [helper.make_node("Gather", [weight, node.input[1]], [result], node.name, axis=gather_axis)]
        if (len(node.input) > 4 and node.input[4]) or attributes.get("accuracy_level") == INT8_ACTIVATIONS:
            return [node]  # an order of groups, or a product that may round activations, which is no plain one
        self._feed(weight, nbits_weight(data, scales, zeros, **attributes).T)
        bias = node.input[5] if len(node.input) > 5 else ""
        product = f"{result}.product" if bias else result
        made = [helper.make_node("MatMul", [node.input[0], weight], [product], node.name)]
        return [*made, helper.make_node("Add", [product, bias], [result])] if bias else made

    def _constant(self, name: str) -> Array | None:
        """Return a constant, or what Reshape makes of one."""
        if name in self.fed:
            return self.fed[name]
        if name in self._stored:
            return np.asarray(numpy_helper.to_array(self._stored[name]))
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "Reshape":
            return None
        data, shape = self._constant(maker.input[0]), self._constant(maker.input[1])
        return None if data is None or shape is None else data.reshape([int(size) for size in shape])

    def _feed(self, name: str, array: Array) -> None:
        self.fed[name] = np.ascontiguousarray(array, dtype=np.float64)
        self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, array.shape))


def _dequantised(
    data: Array, scales: Array, zeros: Array | None, *, axis: int = 1, block_size: int = 0, **_: Any
) -> Array:
    axis %= max(data.ndim, 1)

    def spread(values: Array) -> Array:
        if block_size:
            return np.repeat(values, block_size, axis).take(range(data.shape[axis]), axis)
        return values.reshape([-1 if place == axis else 1 for place in range(data.ndim)]) if values.size > 1 else values

    steps = data.astype(np.float64)
    if zeros is not None:
        steps = steps - spread(zeros.astype(np.float64))
    return np.asarray(steps * spread(scales.astype(np.float64)))
