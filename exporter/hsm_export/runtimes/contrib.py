"""ONNX Runtime's own operators for onnx's Python evaluator: what each means, in whatever type its inputs have.

In float64 they are the arbiter of ONNX Runtime's kernels, in float32 their native error. Where right implementations
may go different ways (a number that lies between two steps is rounded up or down, activations may be quantised), every
order of summation goes another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from ..onnx_model.quantisation_record import INT8_ACTIVATIONS
from .contrib_attention import (
    UndefinedError,
    causal_conv,
    group_query,
    linear_attention,
    multi_head,
    rotary,
    self_attention,
    wide,
)
from .windows import convolved

Array = NDArray[Any]
Definition = Callable[..., Any]

# Of a step: how near to the middle between two a number is that may be rounded either way. It is what float32 rounds
# off the products with the scales, of numbers of up to so many steps.
_TIE, _TIE_STEPS = 1e-4, 255


def contrib_operators(order: int = 0) -> list[type[OpRun]]:
    """Return implementations for `onnx.reference.ReferenceEvaluator(new_ops=…)`.

    Args:
        order: which of the ways that right implementations may go; 0 is what the operator's documentation says.
    """
    return [_operator(domain, name, function, order) for (domain, name), function in _DEFINITIONS.items()]


def _operator(domain: str, name: str, function: Definition, order: int) -> type[OpRun]:
    def _run(self: OpRun, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        results = function(*inputs, order=order, count=len(self.onnx_node.output), **attributes)
        return results if isinstance(results, tuple) else (results,)

    return type(name, (OpRun,), {"op_domain": domain, "_run": _run})


def _fused_matmul(
    a: Array, b: Array, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0,
    transBatchB: int = 0, **_: Any,
) -> Array:  # fmt: skip
    if transBatchA or transBatchB:
        raise UndefinedError("transBatch")
    left = np.swapaxes(a, -1, -2) if transA and a.ndim > 1 else a
    right = np.swapaxes(b, -1, -2) if transB and b.ndim > 1 else b
    return np.asarray(_product(left, right) * a.dtype.type(alpha))


def _gelu(x: Array, bias: Array | None = None, **_: Any) -> Array:
    x = x if bias is None else x + bias
    import torch

    x32 = wide(x)
    erf = torch.erf(torch.from_numpy(x32 * x32.dtype.type(np.sqrt(0.5)))).numpy()
    return np.asarray(x32 * 0.5 * (1 + erf)).astype(x.dtype)


def _fast_gelu(x: Array, bias: Array | None = None, **_: Any) -> Array:
    x = x if bias is None else x + bias
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)
    return np.asarray(0.5 * x * (1 + np.tanh(inner))).astype(x.dtype)


def _quick_gelu(x: Array, *, alpha: float = 1.702, **_: Any) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-alpha * x))).astype(x.dtype)


def _skip_norm(
    x: Array, skip: Array, gamma: Array, beta: Array | None = None, bias: Array | None = None, *,
    epsilon: float = 1e-12, simplified: bool = False, count: int = 1, **_: Any,
) -> tuple[Any, ...]:  # fmt: skip
    total = x + skip if bias is None else x + skip + bias
    y = _norm(total, gamma, beta, epsilon, simplified=simplified)
    return (y, None, None, total)[:count]


def _skip_simplified(
    x: Array, skip: Array, gamma: Array, bias: Array | None = None, **attributes: Any
) -> tuple[Any, ...]:
    return _skip_norm(x, skip, gamma, None, bias, simplified=True, **attributes)


def _simplified(x: Array, gamma: Array, *, axis: int = -1, epsilon: float = 1e-5, count: int = 1, **_: Any) -> Any:
    if axis % x.ndim != x.ndim - 1 or count > 1:
        raise UndefinedError("axis")
    return _norm(x, gamma, None, epsilon, simplified=True)


def _norm(x: Array, gamma: Array, beta: Array | None, epsilon: float, *, simplified: bool) -> Array:
    x32 = wide(x)
    centred = x32 if simplified else x32 - x32.mean(-1, keepdims=True)
    y = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon) * gamma
    return np.asarray(y if beta is None else y + beta).astype(x.dtype)


def _matmul_nbits(
    a: Array, packed: Array, scales: Array, zeros: Array | None = None, groups: Array | None = None,
    bias: Array | None = None, *, K: int, N: int, bits: int = 4, block_size: int, accuracy_level: int = 0,
    order: int = 0, **_: Any,
) -> Array:  # fmt: skip
    if groups is not None:
        raise UndefinedError("g_idx")
    weight = nbits_weight(packed, scales.astype(a.dtype), zeros, K=K, N=N, bits=bits, block_size=block_size)
    if order and accuracy_level == INT8_ACTIVATIONS:
        a = _in_steps(a, block_size)
    y = _product(a, weight.T)
    return y if bias is None else y + bias


def nbits_weight(
    packed: Array,
    scales: Array,
    zeros: Array | None = None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
    **_: Any,
) -> Array:
    """Return the weight (N,K) of a MatMulNBits, in the type of its scales."""
    blocks = -(-K // block_size)
    steps = _unpacked(packed.reshape(N, blocks, -1), bits)[..., :block_size]
    middle = _zero_points(zeros, bits, (N, blocks))
    kind = scales.dtype
    weights = (steps.astype(kind) - middle[..., None].astype(kind)) * scales.reshape(N, blocks, 1)
    return np.asarray(weights.reshape(N, -1)[:, :K])


def _zero_points(zeros: Array | None, bits: int, shape: tuple[int, int]) -> Array:
    if zeros is None:
        return np.full(shape, 1 << (bits - 1))
    if zeros.dtype == np.uint8:
        return _unpacked(zeros.reshape(shape[0], -1), bits)[:, : shape[1]]
    return zeros.reshape(shape)


def _unpacked(data: Array, bits: int) -> Array:
    """Return numbers of a few bits, which are packed along the last axis, the low ones first."""
    if bits == 8:
        return data
    parts = [(data >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*data.shape[:-1], -1)


def _in_steps(a: Array, block: int) -> Array:
    """Return activations as 8 bits hold them, each block of the last axis with a scale of its own."""
    size = a.shape[-1]
    padded = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, -size % block)]).reshape(*a.shape[:-1], -1, block)
    scale = np.abs(padded).max(-1, keepdims=True) / 127
    steps = np.rint(np.divide(padded, scale, out=np.zeros_like(padded), where=scale > 0)) * scale
    return np.asarray(steps.reshape(*a.shape[:-1], -1)[..., :size])


def _gather_block(
    data: Array, indices: Array, scales: Array, zeros: Array | None = None, *, bits: int = 4, block_size: int = 128,
    gather_axis: int = 0, quantize_axis: int = 1, **_: Any,
) -> Array:  # fmt: skip
    table = block_table(data, scales, zeros, bits=bits, block_size=block_size, quantize_axis=quantize_axis)
    return np.take(table, indices.astype(np.int64), gather_axis)


def block_table(
    data: Array, scales: Array, zeros: Array | None = None, *, bits: int = 4, block_size: int = 128,
    quantize_axis: int = 1, **_: Any,
) -> Array:  # fmt: skip
    """Return the table that a GatherBlockQuantized reads from, in the type of its scales."""
    packed = data.dtype == np.uint8
    steps = _unpacked(data, bits) if packed else data.astype(np.int8)
    axis = quantize_axis % steps.ndim
    spread = np.repeat(scales, block_size, axis).take(range(steps.shape[axis]), axis)
    middle: Any = (1 << (bits - 1)) if packed else 0
    if zeros is not None:
        unpacked = _unpacked(zeros, bits) if packed else zeros.astype(np.int8)
        unpacked = unpacked.take(range(scales.shape[-1]), -1) if packed else unpacked
        middle = np.repeat(unpacked, block_size, axis).take(range(steps.shape[axis]), axis).astype(scales.dtype)
    return np.asarray((steps.astype(scales.dtype) - middle) * spread)


def _quantised(function: Callable[..., Array], inputs: int) -> Definition:
    """Return the quantised form of a function: its inputs and its result come with a scale and a zero point."""

    def definition(*given: Any, order: int = 0, **attributes: Any) -> Array:
        padded = [*given, *[None] * (3 * inputs + 2 - len(given))]
        parts = [_real(*padded[3 * place : 3 * place + 3]) for place in range(inputs)]
        return _steps(function(*parts, **attributes), padded[3 * inputs], padded[3 * inputs + 1], given[0].dtype, order)

    return definition


def _real(x: Array, scale: Array, zero: Array | None) -> Array:
    return np.asarray((x.astype(scale.dtype) - (0 if zero is None else zero.astype(scale.dtype))) * scale)


def _steps(y: Array, scale: Array, zero: Array | None, kind: Any, order: int) -> Array:
    """Return real numbers as steps of a type; those in the middle between two go up or down by the order."""
    kind = np.dtype(kind) if zero is None else zero.dtype
    steps = y / scale + (0 if zero is None else zero.astype(scale.dtype))
    info = np.iinfo(kind)
    near = (0, _TIE, -_TIE)[order % 3] * np.maximum(np.abs(steps) / _TIE_STEPS, 1)
    return np.clip(np.rint(steps + near), info.min, info.max).astype(kind)


def _qlinear_matmul(
    a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array, y_scale: Array, y_zero: Array,
    *, order: int = 0, **_: Any,
) -> Array:  # fmt: skip
    """A product of steps: exact in integers, then one factor for each row of `a` and column of `b`."""
    rows = [item[:, None] if item.ndim == 1 and item.size > 1 else item for item in (a_scale, a_zero)]
    y = np.matmul(a.astype(np.int64) - rows[1].astype(np.int64), b.astype(np.int64) - b_zero.astype(np.int64))
    return _steps(y.astype(y_scale.dtype) * (rows[0] * b_scale), y_scale, y_zero, y_zero.dtype, order)


def _qlinear_conv(
    x: Array, x_scale: Array, x_zero: Array, w: Array, w_scale: Array, w_zero: Array, y_scale: Array, y_zero: Array,
    bias: Array | None = None, *, order: int = 0, count: int = 1, **attributes: Any,
) -> Array:  # fmt: skip
    """A convolution of steps: exact in doubles, which hold its sums, then one factor for each channel of `w`."""
    zeros = w_zero.astype(np.float64).reshape(-1, *[1] * (w.ndim - 1))
    known = None if bias is None else bias.astype(np.float64)
    y = convolved(x.astype(np.float64) - float(x_zero), w.astype(np.float64) - zeros, known, **attributes)
    factors = (x_scale * w_scale).reshape(-1, *[1] * (w.ndim - 2))
    return _steps(y.astype(y_scale.dtype) * factors, y_scale, y_zero, y_zero.dtype, order)


def _pool_all(x: Array, channels_last: int = 0, **_: Any) -> Array:
    axes = tuple(range(1, x.ndim - 1)) if channels_last else tuple(range(2, x.ndim))
    return np.asarray(x.mean(axes, keepdims=True))


def _softmax(x: Array, axis: int = -1, opset: int = 13, **_: Any) -> Array:
    if opset < 13 and axis % x.ndim != x.ndim - 1:
        raise UndefinedError("axis")
    shares = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(shares / shares.sum(axis, keepdims=True))


def _sigmoid(x: Array, **_: Any) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def _leaky_relu(x: Array, alpha: float = 0.01, **_: Any) -> Array:
    return np.where(x < 0, alpha * x, x)


def _qlinear_concat(scale: Array, zero: Array, *parts: Any, axis: int, order: int = 0, **_: Any) -> Array:
    real = [_real(*parts[place : place + 3]) for place in range(0, len(parts), 3)]
    return _steps(np.concatenate(real, axis), scale, zero, zero.dtype, order)


def _integer_to_float(
    a: Array, b: Array, a_scale: Array, b_scale: Array, a_zero: Array | None = None, b_zero: Array | None = None,
    bias: Array | None = None, **_: Any,
) -> Array:  # fmt: skip
    left = a.astype(np.int64) - (0 if a_zero is None else a_zero.astype(np.int64))
    right = b.astype(np.int64) - (0 if b_zero is None else b_zero.astype(np.int64))
    y = np.matmul(left, right).astype(a_scale.dtype) * (a_scale * b_scale)
    return np.asarray(y if bias is None else y + bias)


def _dynamic_matmul(
    a: Array, b: Array, b_scale: Array, b_zero: Array | None = None, bias: Array | None = None, *, order: int = 0,
    **_: Any,
) -> Array:  # fmt: skip
    low, high = min(float(a.min(initial=0)), 0.0), max(float(a.max(initial=0)), 0.0)
    scale = np.asarray((high - low) / 255 or 1.0, a.dtype)
    zero = np.asarray(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
    return _integer_to_float(_steps(a, scale, zero, np.uint8, order), b, scale, b_scale, zero, b_zero, bias)


def _quantise(x: Array, scale: Array, zero: Array | None = None, *, axis: int = 1, order: int = 0, **_: Any) -> Array:
    return _steps(x, _along(scale, x, axis), None if zero is None else _along(zero, x, axis), np.uint8, order)


def _dequantise(x: Array, scale: Array, zero: Array | None = None, *, axis: int = 1, **_: Any) -> Array:
    return _real(x, _along(scale, x, axis), None if zero is None else _along(zero, x, axis))


def _along(values: Array, x: Array, axis: int) -> Array:
    return (
        values.reshape([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)]) if values.size > 1 else values
    )


def _product(a: Array, b: Array) -> Array:
    return np.asarray(np.matmul(wide(a), wide(b))).astype(a.dtype)


_MICROSOFT = "com.microsoft"
_DEFINITIONS: dict[tuple[str, str], Definition] = {
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "SimplifiedLayerNormalization"): _simplified,
    (_MICROSOFT, "Attention"): self_attention,
    (_MICROSOFT, "BiasGelu"): _gelu,
    (_MICROSOFT, "CausalConvWithState"): causal_conv,
    (_MICROSOFT, "DequantizeLinear"): _dequantise,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (_MICROSOFT, "FastGelu"): _fast_gelu,
    (_MICROSOFT, "FusedMatMul"): _fused_matmul,
    (_MICROSOFT, "GatherBlockQuantized"): _gather_block,
    (_MICROSOFT, "Gelu"): _gelu,
    (_MICROSOFT, "GroupQueryAttention"): group_query,
    (_MICROSOFT, "LinearAttention"): linear_attention,
    (_MICROSOFT, "MatMulIntegerToFloat"): _integer_to_float,
    (_MICROSOFT, "MatMulNBits"): _matmul_nbits,
    (_MICROSOFT, "MultiHeadAttention"): multi_head,
    (_MICROSOFT, "QLinearAdd"): _quantised(lambda a, b, **_: a + b, 2),
    (_MICROSOFT, "QLinearConcat"): _qlinear_concat,
    (_MICROSOFT, "QLinearGlobalAveragePool"): _quantised(_pool_all, 1),
    (_MICROSOFT, "QLinearLeakyRelu"): _quantised(_leaky_relu, 1),
    (_MICROSOFT, "QLinearMul"): _quantised(lambda a, b, **_: a * b, 2),
    (_MICROSOFT, "QLinearSigmoid"): _quantised(_sigmoid, 1),
    (_MICROSOFT, "QLinearSoftmax"): _quantised(_softmax, 1),
    (_MICROSOFT, "QuantizeLinear"): _quantise,
    (_MICROSOFT, "QuickGelu"): _quick_gelu,
    (_MICROSOFT, "RotaryEmbedding"): rotary,
    (_MICROSOFT, "SkipLayerNormalization"): _skip_norm,
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_simplified,
}
