"""Operators of ours for onnx's Python evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference.op_run import OpRun

from .contrib import contrib_operators
from .loops import Loop, Scan
from .ml_operators import ml_operators
from .recurrent import GRU, LSTM, RNN
from .summation import products
from .windows import AveragePool, Conv, ConvTranspose, MaxPool

Array = NDArray[Any]


class GatherElements(OpRun):
    """As ONNX defines it. The evaluator's own takes at most 64 elements along the axis, as many as NumPy's `choose`."""

    def _run(self, data: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        return (np.take_along_axis(data, indices.astype(np.int64), axis or 0),)


class LRN(OpRun):
    """As ONNX defines it. The evaluator's own leaves out neighbours on one side."""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        before, after = (size - 1) // 2, size // 2
        pads = [(before, after) if axis == 1 else (0, 0) for axis in range(x.ndim)]
        squares = np.pad(np.square(x), pads)
        total = sum(squares[:, start : start + x.shape[1]] for start in range(size))
        return (np.asarray(x / (bias + alpha / size * total) ** beta).astype(x.dtype),)


class LogSoftmax(OpRun):
    """As ONNX defines it. The evaluator's own takes the logarithm of a softmax, which is 0 for small logits."""

    def _run(self, x: Array, axis: int | None = None) -> tuple[Array]:
        shifted = x - x.max(-1 if axis is None else axis, keepdims=True)
        total = np.log(np.exp(shifted).sum(-1 if axis is None else axis, keepdims=True))
        return (np.asarray(shifted - total).astype(x.dtype),)


class MeanVarianceNormalization(OpRun):
    """As ONNX defines it. The evaluator's own is a function whose constants are float32, whatever its input is."""

    def _run(self, x: Array, axes: Sequence[int] | None = None) -> tuple[Array]:
        over = tuple(axes or (0, 2, 3))
        mean = x.mean(over, keepdims=True)
        deviation = np.sqrt(np.square(x).mean(over, keepdims=True) - np.square(mean))
        return (np.asarray((x - mean) / (deviation + 1e-9)).astype(x.dtype),)


class RandomUniformLike(OpRun):
    """As ONNX defines it. The evaluator's own takes no scalars."""

    def _run(
        self, x: Array, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None
    ) -> tuple[Array]:
        rng = np.random.default_rng(None if seed is None else abs(int(seed * 8)))
        kind = x.dtype if dtype is None else tensor_dtype_to_np_dtype(dtype)
        return (np.asarray(rng.uniform(low, high, np.shape(x))).astype(kind),)


class OptionalGetElement(OpRun):
    """As ONNX defines it. The evaluator keeps what an optional holds in a list, and its own returns that list."""

    def _run(self, x: Any) -> tuple[Any]:
        return (x[0] if isinstance(x, list) and len(x) == 1 else x,)


class BatchNormalization(OpRun):
    """As ONNX defined it before version 14, for inference. The evaluator's own trains where a momentum is given."""

    def _run(self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, **attributes: Any) -> tuple[Array]:
        if len([name for name in self.onnx_node.output if name]) > 1:
            raise NotImplementedError("its further outputs are those of training")
        epsilon = attributes.get("epsilon")
        shape = (1, *scale.shape, *[1] * (x.ndim - 1 - scale.ndim))
        scale, bias, mean, var = (item.reshape(shape) for item in (scale, bias, mean, var))
        deviation = np.sqrt(var + (1e-5 if epsilon is None else epsilon))
        return (np.asarray((x - mean) / deviation * scale + bias).astype(x.dtype),)


class GlobalMaxPool(OpRun):
    """As ONNX defines it. The evaluator's own drops the dimensions that it pools."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class DequantizeLinear(OpRun):
    """As ONNX defined it before version 19, which the evaluator lacks: one scale, or one for each index of an axis."""

    def _run(self, x: Array, scale: Array, zero: Array | None = None, **attributes: Any) -> tuple[Array]:
        axis = attributes.get("axis")
        channels = [-1 if place == (1 if axis is None else axis) % x.ndim else 1 for place in range(x.ndim)]
        shape = channels if scale.size > 1 else []
        centred = x.astype(scale.dtype)
        if zero is not None:
            centred = centred - zero.astype(scale.dtype).reshape(shape)
        return (np.asarray(centred * scale.reshape(shape)),)


def operators(order: int = 0, opset: int = 0) -> list[type[OpRun]]:
    """Return implementations for `onnx.reference.ReferenceEvaluator(new_ops=…)`.

    Args:
        order: in which order MatMul and Gemm add their terms (see `summation.products`).
        opset: the model's; the evaluator knows quantisation from 19 on, which before was the same, and inference with
            batch norms from 14 on.
    """
    own: list[type[OpRun]] = [
        GatherElements, GlobalMaxPool, LRN, LogSoftmax, Loop, MeanVarianceNormalization, OptionalGetElement,
        RandomUniformLike,
    ]  # fmt: skip
    windows: list[type[OpRun]] = [Conv, ConvTranspose, MaxPool, AveragePool]
    recurrent: list[type[OpRun]] = [GRU, LSTM, RNN]
    older: list[type[OpRun]] = [DequantizeLinear] if 0 < opset < 19 else []
    older += [BatchNormalization] if 0 < opset < 14 else []
    older += [Scan] if not 0 < opset < 9 else []
    return [*products(order), *contrib_operators(order), *ml_operators(), *own, *windows, *recurrent, *older]
