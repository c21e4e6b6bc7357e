"""Element-wise functions a few units in the last place off, as every library's are: exp of one is not that of another.

An implementation is entitled to that. How much it costs depends on the formula: a recurrence of thousands of tokens
multiplies by the same wrong digit again and again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What ONNX's runtimes, NVIDIA's libraries and vector units promise of such functions.
UNITS = 2.0
_FUNCTIONS = frozenset(
    {"acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "elu", "erf", "erfc", "exp", "exp2", "expm1"}
    | {"gelu", "log", "log10", "log1p", "log2", "log_softmax", "logsigmoid", "logsumexp", "mish", "pow", "rsqrt"}
    | {"selu", "sigmoid", "silu", "sin", "sinh", "softmax", "softplus", "tan", "tanh"}
)


class Approximate(TorchFunctionMode):
    """Makes PyTorch's element-wise functions in float32 up to `UNITS` units off inside the block.

    Args:
        seed: of the errors, which differ from element to element.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        if name not in _FUNCTIONS or not isinstance(result, Tensor) or result.dtype != torch.float32:
            return result
        errors = 2 * torch.rand(result.shape, generator=self._generator) - 1
        return result * (1 + UNITS * torch.finfo(torch.float32).eps * errors)
