"""Runs of PyTorch in float64 whose intermediate numbers are rounded at random, as a lower precision would round them.

How much that changes a result is what rounding to that precision explains, whatever the order of the sums and however
each kernel works: the condition of the whole model.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..comparison.allowance import APPROXIMATED, LONG, UNITS, sampled, sum_error
from ..comparison.threshold import FACTOR
from ..dtypes import EPSILON
from .operator_calls import operators_called_by

if TYPE_CHECKING:
    import torch

# They return numbers that they were given, or whole ones.
_TORCH_MOVES = frozenset(
    {
        "_to_copy", "abs", "amax", "amin", "bucketize", "cat", "ceil", "clamp", "clone", "constant_pad_nd",
        "contiguous", "copy", "copy_", "embedding", "expand", "flip", "floor", "gather", "index", "index_put",
        "index_select", "masked_fill", "masked_fill_", "masked_scatter", "max", "maximum", "min", "minimum", "neg",
        "pad", "relu", "repeat", "roll", "round", "scatter", "select_scatter", "sgn", "sign", "slice_scatter", "sort",
        "stack", "topk", "tril", "triu", "trunc", "where",
    }
)  # fmt: skip
# Roots of sums of squares, of which other kernels lose those below the smallest normal number of float32.
_ROOTS = frozenset(["std", "hypot"])
# Products, of which the second look at a narrow miss takes the partial sums to be rounded, too; where the terms stand.
_PRODUCTS = {"mm": 0, "bmm": 0, "matmul": 0, "linear": 0, "addmm": 1, "baddbmm": 1}
_TRANSFORM = re.compile(r"_?(fft_\w*fft[2n]?|fft_[rc]2[rc]|stft)")
_RECURRENT = frozenset(["gru", "lstm", "rnn_tanh", "rnn_relu"])
# What names elements by their order, which the smallest rounding changes where some are equal.
_SORTS = frozenset(["topk", "sort", "argsort", "kthvalue", "median", "nanmedian"])
_LOST_SQUARE = 2.0**-63
# How many random choices show the condition; the many numbers of large models need no second one.
_DRAWS, _LARGE_BYTES = 3, 100_000_000
_MORE = 5  # times as many where a few condemn


def draws(weight_bytes: int, many: bool = False) -> range:
    """Return the random choices that show the condition of a model of this size.

    Deep models amplify rare roundings: the largest change of thirty draws may be three times that of the first three.

    Args:
        weight_bytes: size of the model's weights.
        many: a few choices would condemn a file; more tell a fault from such luck.
    """
    count = _DRAWS if weight_bytes <= _LARGE_BYTES else 1
    return range(1, 1 + count * (_MORE if many else 1))


def more_draws(weight_bytes: int) -> range:
    """Return the random choices that come after the first few, where those would condemn a file."""
    return range(draws(weight_bytes).stop, draws(weight_bytes, many=True).stop)


@contextlib.contextmanager
def rounded_in_torch(precision: str, draw: int) -> Iterator[None]:
    """Make PyTorch round the result of every operator at random inside the block.

    Args:
        precision: "fp32", "fp16" or "bf16".
        draw: which random choice; 0 rounds nothing.
    """
    if not draw:
        yield
        return
    import torch

    generator = torch.Generator().manual_seed(draw)

    def rounded(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if operator.overloadpacket.__name__ in _SORTS and not options.get("stable"):
            arguments = (_without_ties(arguments[0], precision, draw, generator), *arguments[1:])
        result = operator(*arguments, **options)
        returns = operator._schema.returns
        views = any(item.alias_info is not None and not item.alias_info.is_write for item in returns)
        name = operator.overloadpacket.__name__.removesuffix("_")  # in place or not
        squares = name in _ROOTS or (name == "abs" and _has_complex(arguments))
        if views or (name in _TORCH_MOVES and not squares) or not _has_tensor(arguments):
            return result
        if isinstance(result, torch.Tensor):
            return _rounded(result, precision, generator, _more(name, arguments, result, again=draw > _DRAWS))
        if isinstance(result, (tuple, list)):
            return type(result)(
                _rounded(item, precision, generator, _more(name, arguments, item, again=draw > _DRAWS))
                if isinstance(item, torch.Tensor)
                else item
                for item in result
            )
        return result

    with operators_called_by(rounded):
        yield


def round_parameters(module: torch.nn.Module, precision: str, draw: int) -> None:
    """Give a module parameters that are rounded at random; float32 ones are what the file holds."""
    import torch

    if not draw or precision == "fp32":
        return
    generator = torch.Generator().manual_seed(draw)
    with torch.no_grad():
        for parameter in module.parameters():
            # Not in place: a copy of a module may share them with the module.
            parameter.data = _rounded(parameter.detach().clone(), precision, generator)


def _rounded(tensor: torch.Tensor, precision: str, generator: torch.Generator, more: Any = None) -> torch.Tensor:
    """Move every number, in place, by up to half a unit in the last place, and by up to `more` besides."""
    import torch

    if tensor.is_complex() and tensor.numel() and not tensor.is_conj():
        _rounded(torch.view_as_real(tensor), precision, generator, more)
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor

    def noise() -> torch.Tensor:
        return torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype).sub_(0.5)

    tensor.mul_(noise().mul_(EPSILON[precision]).add_(1.0))
    return tensor if more is None else tensor.add_(noise().mul_(2.0).mul_(more))


def _more(name: str, args: Any, result: torch.Tensor, again: bool = False) -> Any:
    """Return what kernels may be off besides rounding their result: a number or a tensor; None for nothing.

    Args:
        name: PyTorch's name of the operator.
        args: its arguments.
        result: what it gives in float64.
        again: a second look, at what a few random choices would condemn.
    """
    import torch

    if not result.numel() or not (result.is_floating_point() or result.is_complex()):
        return None
    x = args[0]
    if _TRANSFORM.fullmatch(name):
        return sum_error(args[1] if name == "stft" else max(x.shape), _largest(result))
    if result.is_complex():
        return None
    if again and name in _PRODUCTS:
        return sum_error(args[_PRODUCTS[name]].shape[-1], _largest(result))
    if name in _RECURRENT:  # every step reads what the one before got wrong
        count = max(x.shape[:2]) * (x.shape[-1] + result.shape[-1])
        return UNITS / FACTOR * EPSILON["fp32"] + (sum_error(count, _largest(result)) if again else 0.0)
    if name in ("std_mean", "var_mean"):  # in PyTorch sums in float64; others round the terms' sum
        return _LOST_SQUARE + EPSILON["fp32"] / 2 * float(x.abs().mean())
    if name in _ROOTS or (name == "abs" and x.is_complex()):
        return _LOST_SQUARE
    if name in APPROXIMATED:
        scale: Any = x.abs().clamp(max=torch.finfo(x.dtype).max) if APPROXIMATED[name] == "input" else 1.0
        return UNITS / FACTOR * EPSILON["fp32"] * scale
    count = x.numel() // result.numel() if name in ("mean", "sum", "norm", "linalg_vector_norm") else 0
    if name in ("convolution", "conv1d", "conv2d", "conv3d"):
        count = max(LONG, args[1][0].numel())
    elif name.startswith(("upsample_", "_upsample_", "grid_sampler")):
        count = max(LONG, sampled(x.shape))
    return sum_error(count, float(result.abs().max())) if count >= LONG else None


def _largest(tensor: torch.Tensor) -> float:
    """Return the largest finite magnitude."""
    size = tensor.abs()
    return float(size.where(size.isfinite(), 0.0).max())


def _without_ties(tensor: torch.Tensor, precision: str, draw: int, generator: torch.Generator) -> torch.Tensor:
    """Move every number by less than rounding does, so that none are equal: upwards, downwards, then at random."""
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    step = torch.arange(tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape) / tensor.numel() - 0.5
    if draw == 2:
        step = -step
    elif draw > 2:
        step = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) - 0.5
    return tensor + step * (tensor.abs() * (EPSILON[precision] / 8) + 2.0**-126)


def _has_complex(args: Any) -> bool:
    import torch

    return bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_complex()


def _has_tensor(args: Any) -> bool:
    import torch

    flat = [item for value in args for item in (value if isinstance(value, (list, tuple)) else [value])]
    return any(isinstance(item, torch.Tensor) for item in flat)
