"""Causal TaylorShift with a carried state: token t attends to tokens <= t (our extension of arXiv:2403.02920).

The state of a head is sum_m phi(k_m) v_m (F,e) and sum_m phi(k_m) (F,), with the features phi of `taylor_shift`. Inside
a chunk of tokens the direct form is used, across chunks the state: prefill, chunks and single steps are one operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fused_gradient import FusedGradient
from ..precision import accumulator
from ..registration import register, require
from ..taylor_shift import fused
from ..taylor_shift.torch_op import (
    check_heads,
    check_lengths,
    feature_count,
    features,
    normalize_rows,
    polynomial,
    weighted_features,
)
from .gradient import direct_gradient, is_short

_CHUNK = 128
_TEMPERATURE = 3  # index of the last input that is no state


def causal_taylor_shift(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
    state: Tensor,
    norm: Tensor,
    lengths: Tensor,
    normalize: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to the tokens so far and carry the state on.

    Args:
        q, k: (B,T,H,d), any float dtype.
        v: (B,T,H,e) of the same dtype.
        temperature: (H,), tau per head; ignored unless `normalize`.
        state: (B,H,F,e), float32 (float64 for float64 q), zero at the start; F = 1 + d + d(d+1)/2.
        norm: (B,H,F) of the same dtype.
        lengths: (B,) int64, valid tokens of each row in this call, 0..T.
        normalize: scale q to length tau and k to length 1.

    Returns:
        y (B,T,H,e) of q's dtype, unspecified beyond `lengths`, and the state and norm after the valid tokens.

    Raises:
        ValueError: shapes or dtypes that contradict each other.
    """
    y, state_out, norm_out = _causal_taylor_shift(q, k, v, temperature, state, norm, lengths, normalize)
    return y, state_out, norm_out


def _check(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, state: Tensor, norm: Tensor, lengths: Tensor) -> None:
    check_heads(q, k, v, temperature)
    check_lengths(q, lengths)
    batch, _, heads, width = q.shape
    rows, value_width = feature_count(width), v.shape[3]
    wide = accumulator(q.dtype)
    for name, tensor, shape in (
        ("state", state, (batch, heads, rows, value_width)),
        ("norm", norm, (batch, heads, rows)),
    ):
        require(
            tensor.dtype == wide and tuple(tensor.shape) == shape,
            f"{name} must be {wide} of shape {shape}, got {tensor.dtype} of {tuple(tensor.shape)}",
        )


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
    state: Tensor,
    norm: Tensor,
    lengths: Tensor,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(q, k, v, temperature, state, norm, lengths)
    keep = (torch.arange(q.shape[1], device=q.device) < lengths.unsqueeze(1)).reshape(q.shape[0], q.shape[1], 1, 1)
    # Rows beyond the length may hold anything, NaN too, and zero times NaN would spread it into the state.
    q, k, v = torch.where(keep, q, 0), torch.where(keep, k, 0), torch.where(keep, v, 0)
    qn, kn = normalize_rows(q, k, temperature, normalize)
    valid = keep.transpose(1, 2).to(qn.dtype)
    values = v.to(qn.dtype).transpose(1, 2)
    columns = torch.cat((valid.expand(*values.shape[:3], 1), values), dim=-1)
    sums = torch.cat((norm.unsqueeze(-1), state), dim=-1)
    outputs = []
    for chunk in zip(qn.split(_CHUNK, 2), kn.split(_CHUNK, 2), columns.split(_CHUNK, 2), strict=True):
        y, sums = _advance(*chunk, sums)
        outputs.append(y)
    y = torch.cat(outputs, dim=2).transpose(1, 2).to(q.dtype).contiguous()
    return y, sums[..., 1:].contiguous(), sums[..., 0].contiguous()


def _advance(q: Tensor, k: Tensor, v: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return y (B,H,C,e) of one chunk and the sums (B,H,F,e+1) after it."""
    inside = polynomial(q @ k.transpose(-1, -2)).tril() @ v
    total = inside + weighted_features(q) @ sums
    return total[..., 1:] / total[..., :1], sums + features(k).transpose(-1, -2) @ v


def _gradient(dy: Tensor, needed: list[int], *inputs: Any) -> dict[int, Tensor]:
    return dict(enumerate(direct_gradient(dy, *inputs)))


def _gradient_applies(needed: list[int], inputs: list[Any]) -> bool:
    return max(needed) <= _TEMPERATURE and is_short(inputs[0])


def _fused_gradient(dy: Tensor, needed: list[int], *inputs: Any) -> dict[int, Tensor]:
    q, k, v, temperature, state, norm, lengths, normalize = inputs
    return fused.gradient(dy, q, k, v, temperature, lengths, normalize, past=(state, norm))


def _fused_takes(needed: list[int], inputs: Sequence[Any]) -> bool:
    q, k, v, *_, normalize = inputs
    # Tensor cores multiply pairs of tokens several times as fast as the reference, which is float32, features.
    longest = (2 if q.dtype == torch.float32 else 8) * feature_count(q.shape[3])
    return max(needed) <= _TEMPERATURE and q.shape[1] <= longest and fused.takes(q, k, v, normalize)


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
    state: Tensor,
    norm: Tensor,
    lengths: Tensor,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape), norm.new_empty(norm.shape)


_causal_taylor_shift = register(
    "causal_taylor_shift",
    "(Tensor q, Tensor k, Tensor v, Tensor temperature, Tensor state, Tensor norm, Tensor lengths, bool normalize)"
    " -> (Tensor, Tensor, Tensor)",
    _reference,
    _fake,
    _gradient,
    _gradient_applies,
    FusedGradient(_fused_gradient, _fused_takes),
)
