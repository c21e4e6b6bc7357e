"""Causal TaylorShift of short whole sequences, in training: nothing comes before, and nobody reads the state after.

The state of a head is F times as wide as its values, F = 1 + d + d(d+1)/2: for few tokens it costs more than all the
rest. Here the forward pass is the direct form, differentiated by PyTorch, which keeps its T x T scores; of more tokens
the backward pass is the operator's own, which keeps nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..precision import accumulator
from ..taylor_shift.torch_op import normalize_rows, polynomial
from .gradient import direct_gradient

# Tokens for each number of a key up to which this is quicker than the kernels with a state, and up to which PyTorch
# differentiates; measured.
_TOKENS, _KEPT = 8, 4


def is_better_whole(q: Tensor) -> bool:
    """Return whether q (B,T,H,d) is trained faster so: few tokens on the CPU, and nothing records the operator."""
    trains = torch.is_grad_enabled() and q.requires_grad and not torch.compiler.is_compiling()
    return trains and q.device.type == "cpu" and q.shape[1] <= _TOKENS * q.shape[3]


def whole_causal_taylor_shift(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, normalize: bool) -> Tensor:
    """Return y of `causal_taylor_shift` for rows that are valid as a whole, after nothing; see there."""
    if q.shape[1] <= _KEPT * q.shape[3]:
        return _direct(q, k, v, temperature, normalize)
    y: Tensor = _Whole.apply(q, k, v, temperature, normalize)
    return y


def _direct(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, normalize: bool) -> Tensor:
    qn, kn = normalize_rows(q, k, temperature, normalize)
    weights = polynomial(qn @ kn.transpose(-1, -2)).tril()
    y = weights @ v.transpose(1, 2).to(weights.dtype) / weights.sum(-1, keepdim=True)
    return y.transpose(1, 2).to(q.dtype)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, normalize: bool) -> Tensor:
        ctx.save_for_backward(q, k, v, temperature)
        ctx.normalize = normalize
        return _direct(q, k, v, temperature, normalize)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, temperature = ctx.saved_tensors
        batch, length, heads, width = v.shape
        nothing = q.new_zeros(batch, heads, 0, width + 1, dtype=accumulator(q.dtype))
        lengths = torch.full((batch,), length, dtype=torch.int64)
        found = direct_gradient(
            gradients[0], q, k, v, temperature, nothing[..., 1:], nothing[..., 0], lengths, ctx.normalize
        )
        inputs = (q, k, v, temperature)
        return (*(part.to(own.dtype) for part, own in zip(found, inputs, strict=True)), None)
