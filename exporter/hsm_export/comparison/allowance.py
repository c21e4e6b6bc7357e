"""What right kernels add to an error: approximations of functions, and sums in an order of their own.

Libraries compute element-wise functions by rational or polynomial approximations that are good to a few units in the
last place of the function's scale, not of each result: a sigmoid of -6 is 0.0025, and off by some of the last places of
1. Sums of n terms in float32 err by about sqrt(n) units in the last place of the terms' sum, in whatever order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..dtypes import EPSILON

# Units in the last place of the function's scale that an approximation may be off.
UNITS = 4.0
# By ONNX's names of operators and PyTorch's: whether the scale is 1, or the argument.
_ONE = (
    "Sigmoid Tanh Erf Elu Selu Celu Softplus Sin Cos Atan Asinh Sinh LSTM GRU RNN "
    "HannWindow HammingWindow BlackmanWindow elu selu celu softplus sin cos tanh sigmoid erf"
)
_INPUT = "Gelu FastGelu BiasGelu QuickGelu Mish Swish LogSoftmax gelu mish silu log_softmax log_sigmoid"
APPROXIMATED: Mapping[str, str] = {**dict.fromkeys(_ONE.split(), "one"), **dict.fromkeys(_INPUT.split(), "input")}
# Sums so long that a few orders of them do not show what others may be off.
LONG = 1024
_REDUCED = frozenset(f"Reduce{name}" for name in ("Sum", "Mean", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"))
_LOSSES = frozenset(["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
_TRANSFORMS = frozenset(["DFT", "STFT"])
# Their places between the elements of the first input are float32 numbers, which err with its extents, and so do their
# weights, which are cubic polynomials of them at most (some 16 operations).
_SAMPLED = frozenset(["Resize", "Upsample", "GridSample", "RoiAlign"])
_WEIGHTS = 16
# Of ONNX Runtime's own operators those whose terms are the last axis of the first input; blocks are added apart.
_PRODUCTS = frozenset(["MatMulNBits", "FusedMatMul", "DynamicQuantizeMatMul"])
# Sums over what the first input has more elements than the result; some of them have no other orders when short either.
POOLED = _REDUCED | _LOSSES | frozenset(["GlobalAveragePool", "AveragePool"])
SHORT_TOO = POOLED - _REDUCED
# Sums whose terms are an axis of the weights: of the second input all axes but the first, or the last one alone.
WEIGHTED: Mapping[str, int] = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "LSTM": 2, "GRU": 2, "RNN": 2}


def function_scale(operator: str, largest_input: float) -> float:
    """Return the scale of which an operator's approximation may be off some units in the last place; 0 for others."""
    return {"one": 1.0, "input": largest_input}.get(APPROXIMATED.get(operator, ""), 0.0)


def terms(operator: str, shapes: Sequence[tuple[int, ...]], results: int) -> int:
    """Return how many terms the sums of an operator have that no orders of summation are tried for; 0 for others.

    Args:
        operator: its name in ONNX.
        shapes: those of its inputs.
        results: elements of its first result.
    """
    if operator in POOLED and shapes:
        count = math.prod(shapes[0]) // max(results, 1)
        return count if count >= LONG or operator in SHORT_TOO else 0
    if operator in _PRODUCTS and shapes:
        return shapes[0][-1] if shapes[0] else 0
    if operator in _SAMPLED and shapes:
        return sampled(shapes[0])
    if operator in _TRANSFORMS and shapes:
        # Errors of the angles grow with the length as those of the sum do.
        return max(shapes[0], default=0) ** 2
    if operator in WEIGHTED and len(shapes) > 1:
        first = WEIGHTED[operator]
        if first == 2 and len(shapes) > 2 and shapes[0] and shapes[2]:
            return shapes[0][0] * (shapes[1][-1] + shapes[2][-1])  # every step reads what the one before got wrong
        return math.prod(shapes[1][first:])
    if operator in ("Einsum", "Attention", "GroupQueryAttention", "MultiHeadAttention") and len(shapes) > 1:
        return max(math.prod(shapes[0]) * math.prod(shapes[1]) // max(results, 1) // max(shapes[0][-1:] or (1,)), 1)
    return 0


def sampled(shape: Sequence[int]) -> int:
    """Return how many terms a sum has that errs as much as interpolation between the elements of such a tensor."""
    return (max(shape, default=0) + _WEIGHTS) ** 2


def sum_error(count: int, scale: float) -> float:
    """Return the error that a sum of so many terms in float32 makes, its result and partial sums of this scale."""
    return math.sqrt(count) * EPSILON["fp32"] / 2 * scale
