"""Functions of PyTorch whose numbers ONNX keeps in attributes, written with tensors: attributes are float32.

A norm's epsilon of 1e-5 is 9.99999975e-6 there, which costs a model in float64 its last five digits. So do the numbers
of Python code, which torch.onnx writes in float32 first; `exact_numbers` puts them right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor
    from torch.export import ExportedProgram

_SELU = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def float64_forms() -> dict[Any, Any]:
    """Return the forms by the functions of torch.nn.functional that they stand for."""
    from torch.nn import functional

    forms = (batch_norm, elu, group_norm, hardsigmoid, hardswish, layer_norm, leaky_relu, rms_norm, selu)
    found: dict[Any, Any] = {getattr(functional, form.__name__): form for form in forms}
    return found | {functional.scaled_dot_product_attention: attention}


@contextlib.contextmanager
def attention_in_float64() -> Iterator[None]:
    """Make PyTorch's own multi-head attention call `attention` in float64 inside the block."""
    import torch
    from torch.nn import functional

    own = functional.scaled_dot_product_attention

    def call(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return (attention if query.dtype is torch.float64 else own)(query, *arguments, **options)

    functional.scaled_dot_product_attention = call
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


def numbers_of(program: ExportedProgram) -> frozenset[float]:
    """Return the floating-point numbers in the calls of a traced program."""
    found: set[float] = set()
    for node in program.graph.nodes:
        values = [*node.args, *node.kwargs.values()]
        found.update(value for value in values if isinstance(value, float))
    return frozenset(found)


def exact_numbers(model: ir.Model, numbers: Collection[float], weights: Collection[str]) -> None:
    """Give single constants in float64 that are one of the numbers in float32 the number itself; in place."""
    import numpy as np
    import onnx_ir as ir

    exact = {float(np.float32(number)): number for number in numbers}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if value.dtype != ir.DataType.DOUBLE or tensor is None or tensor.size != 1 or value.name in weights:
            continue
        number = exact.get(float(tensor.numpy().reshape(())))
        if number is not None:
            array = np.full(tensor.shape.numpy(), number, np.float64)
            value.const_value = ir.tensor(array, name=value.name)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax attention of (...,T,D)."""
    import torch

    if enable_gqa:
        more = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(more, -3), value.repeat_interleave(more, -3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        hidden = attn_mask.dtype is torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
    return torch.nn.functional.dropout(scores.softmax(-1), dropout_p) @ value


def layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions."""
    dims = list(range(-len(normalized_shape), 0))
    centred = input - input.mean(dims, keepdim=True)
    return _affine(centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt(), weight, bias)


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Divide by the root of the mean square over the last dimensions."""
    import torch

    dims = list(range(-len(normalized_shape), 0))
    least = torch.finfo(input.dtype).eps if eps is None else eps
    return _affine(input * (input.square().mean(dims, keepdim=True) + least).rsqrt(), weight, None)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise over groups of the channels of (B,C,...)."""
    grouped = input.reshape(input.shape[0], num_groups, -1)
    normed = layer_norm(grouped, (1,), eps=eps).reshape(input.shape)
    return _affine(normed, _channels(weight, input), _channels(bias, input))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Normalise (B,C,...) by the running statistics; None without them, or in training."""
    mean, var = _channels(running_mean, input), _channels(running_var, input)
    if training or mean is None or var is None:
        return None
    return _affine((input - mean) * (var + eps).rsqrt(), _channels(weight, input), _channels(bias, input))


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where it is positive, else the slope times x."""
    import torch

    return torch.where(input > 0, input, input * negative_slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where it is positive, else alpha (exp(x) - 1)."""
    import torch

    return torch.where(input > 0, input, alpha * (input.clamp(max=0).exp() - 1))


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return the scaled ELU."""
    alpha, scale = _SELU
    return scale * elu(input, alpha)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x / 6 + 1 / 2, from 0 to 1."""
    return (input + 3).clamp(0, 6) / 6


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x times its hard sigmoid."""
    return input * hardsigmoid(input)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _channels(value: Tensor | None, x: Tensor) -> Tensor | None:
    """Return numbers of channels (C,) as they stand beside (B,C,...)."""
    return None if value is None else value.reshape(-1, *[1] * (x.dim() - 2))
