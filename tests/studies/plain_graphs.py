"""Random ONNX graphs without a node of ours: small chains of the standard operators that other exporters write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

TYPES = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
# What onnx's schemas and ONNX Runtime's CPU kernels both take in every precision.
_UNARY = ("Relu", "Sigmoid", "Tanh", "Gelu", "Erf", "Neg", "Abs", "Sqrt-of-square", "Exp")
_BINARY = ("Add", "Mul", "Sub", "Div", "Max")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")


class _Builder:
    """Nodes and weights of a graph that is being drawn; every tensor has shape (batch, length, width)."""

    def __init__(self, precision: str, rng: np.random.Generator) -> None:
        self._type = TYPES[precision][1]
        self._rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, spread: float = 1.0, centre: float = 0.0) -> str:
        """Add a random weight and return its name."""
        array = (centre + spread * self._rng.standard_normal(shape)).astype(self._type)
        return self.constant(np.asarray(array))

    def constant(self, array: Array) -> str:
        """Add an initializer and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return its result."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], f"{operator}_{name}", **attributes))
        return name

    def product(self, x: str, width: int, wider: int) -> str:
        """Multiply by a matrix, with or without bias."""
        y = self.node("MatMul", x, self.weight(width, wider, spread=width**-0.5))
        return self.node("Add", y, self.weight(wider)) if self._rng.random() < 0.5 else y

    def norm(self, x: str, width: int) -> str:
        """Normalise the last dimension."""
        return self.node(
            "LayerNormalization", x, self.weight(width, spread=0.1, centre=1.0), self.weight(width), epsilon=1e-5
        )

    def attention(self, x: str, width: int) -> str:
        """Attend over the sequence with one head."""
        q, k, v = (self.product(x, width, width) for _ in range(3))
        logits = self.node("MatMul", q, self.node("Transpose", k, perm=[0, 2, 1]))
        scale = self.constant(np.asarray(width**-0.5, self._type))
        weights = self.node("Softmax", self.node("Mul", logits, scale), axis=-1)
        return self.node("MatMul", weights, v)

    def pointwise(self, x: str, width: int) -> str:
        """Apply one or two operators element by element."""
        operator = str(self._rng.choice(_UNARY))
        if operator == "Sqrt-of-square":
            y = self.node("Sqrt", self.node("Mul", x, x))
        else:
            y = self.node(operator, self.node("Tanh", x) if operator == "Exp" else x)
        other = str(self._rng.choice(_BINARY))
        # Divisors keep away from zero.
        return self.node(other, y, self.weight(width, spread=0.1, centre=1.0))

    def reduced(self, x: str) -> str:
        """Take something off every row that is a reduction of it."""
        operator = str(self._rng.choice(_REDUCTIONS))
        axes = self.constant(np.asarray([int(self._rng.choice([1, 2]))], np.int64))
        return self.node("Sub", x, self.node(operator, x, axes, keepdims=1))

    def moved(self, x: str, width: int) -> str:
        """Split, swap and join halves."""
        half = self.constant(np.asarray([width // 2, width - width // 2], np.int64))
        first, second = f"{x}_a{len(self.nodes)}", f"{x}_b{len(self.nodes)}"
        self.nodes.append(helper.make_node("Split", [x, half], [first, second], f"Split_{first}", axis=-1))
        return self.node("Concat", second, first, axis=-1)


def write_plain(path: Path, precision: str, batch: int, length: int, seed: int) -> dict[str, Array]:
    """Write a random graph and return inputs (batch, length, width) for it."""
    rng = np.random.default_rng(seed)
    width = int(rng.choice([8, 16, 33]))
    builder = _Builder(precision, rng)
    kinds: list[Callable[[str], str]] = [
        lambda x: builder.product(x, width, width),
        lambda x: builder.norm(x, width),
        lambda x: builder.attention(x, width),
        lambda x: builder.pointwise(x, width),
        builder.reduced,
        lambda x: builder.moved(x, width),
    ]
    x = "x"
    for place in rng.permutation(np.arange(12) % len(kinds))[: int(rng.integers(5, 10))]:
        y = kinds[place](x)
        x = builder.node("Add", x, y) if rng.random() < 0.4 else y
    y = builder.node("Cast", builder.product(x, width, 7), to=TensorProto.FLOAT)
    kind = TYPES[precision][0]
    graph = helper.make_graph(
        builder.nodes,
        "plain",
        [helper.make_tensor_value_info("x", kind, ["batch", "length", width])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", "length", 7])],
        builder.weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    return {"x": rng.standard_normal((batch, length, width)).astype(np.float32)}
