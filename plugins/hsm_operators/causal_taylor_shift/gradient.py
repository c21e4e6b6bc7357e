"""The gradient of causal TaylorShift in its direct form, which is the cheaper one for sequences of up to 2F tokens.

With t_nm = q_n·k_m and S the sums of what came before, z_n = sum_(m<=n) p(t_nm) (1, v_m) + W phi(q_n)·S, y = z_v / z_1,

    dz_n = (-dy_n·y_n, dy_n) / z_1,   dt_nm = (1 + t_nm) dz_n·(1, v_m),
    dq_n = sum_m dt_nm k_m,   dk_m = sum_n dt_nm q_n,   dv_m = sum_n p(t_nm) dz_n

are six products of about T²·d flops a head, where running the reference once more takes twelve of T·F·d. Where S is
not zero, as it is in training, dq gets its part through the features. Nothing is kept of the forward pass; blocks of
queries keep the T x T scores out of memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..taylor_shift.torch_op import EPS, feature_count, polynomial, weighted_features

_BLOCK = 128


def is_short(q: Tensor) -> bool:
    """Return whether the direct form is the cheaper way for q (B,T,H,d)."""
    return q.shape[1] <= 2 * feature_count(q.shape[3])


def direct_gradient(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
    state: Tensor,
    norm: Tensor,
    lengths: Tensor,
    normalize: bool,
) -> tuple[Tensor, ...]:
    """Return the gradients of q, k, v and temperature.

    Args:
        dy: (B,T,H,e), the gradient of y.
        q, k, v, temperature, state, norm, lengths, normalize: see `causal_taylor_shift`.

    Returns:
        Tensors of the shapes of q, k, v and temperature, in the accumulator's dtype, that of the state.
    """
    batch, length, heads, _ = q.shape
    keep = (torch.arange(length, device=q.device) < lengths.unsqueeze(1)).reshape(batch, length, 1, 1)
    rows = [torch.where(keep, tensor, 0).transpose(1, 2).to(state.dtype) for tensor in (q, k, v)]
    tau = temperature.to(state.dtype).reshape(heads, 1, 1)
    units, inverses = zip(*map(_unit, rows[:2]), strict=True) if normalize else (rows[:2], (1, 1))
    qn, kn = (units[0] * tau if normalize else units[0]), units[1]
    ones = keep.transpose(1, 2).to(state.dtype).expand(batch, heads, length, 1)
    columns, sums = torch.cat((ones, rows[2]), dim=-1), torch.cat((norm.unsqueeze(-1), state), dim=-1)
    parts = (dy.transpose(1, 2).to(state.dtype), qn, kn, columns, sums)
    dq, dk, dv = (part.unflatten(0, (batch, heads)) for part in _through_scores(*(p.flatten(0, 1) for p in parts)))
    dtau = torch.zeros_like(tau)
    if normalize:
        along = (units[0] * dq).sum(-1, keepdim=True)
        dtau = along.sum((0, 2)).reshape(heads, 1, 1)
        dq = (dq - units[0] * along) * (tau * inverses[0])
        dk = (dk - units[1] * (units[1] * dk).sum(-1, keepdim=True)) * inverses[1]
    found = (torch.where(keep, part.transpose(1, 2), 0) for part in (dq, dk, dv[..., 1:]))
    return (*found, dtau.reshape(heads))


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (…,d) at length 1, and one over its length (…,1)."""
    inverse = 1 / x.norm(dim=-1, keepdim=True).clamp(min=EPS)
    return x * inverse, inverse


def _through_scores(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k (N,T,d) and v (N,T,e+1).

    Args:
        dy: (N,T,e).
        q, k: (N,T,d), scaled.
        v: (N,T,e+1); its first column is 1 for valid tokens, and all else of invalid ones is 0.
        sums: (N,F,e+1), of what came before.
    """
    started = bool(sums.any())
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, q.shape[1], _BLOCK):
        end = min(start + _BLOCK, q.shape[1])
        own = q[:, start:end]
        scores = own @ k[:, :end].transpose(1, 2)
        weights = polynomial(scores)
        weights[..., start:].tril_()
        z = weights @ v[:, :end]
        if started:
            z += weighted_features(own) @ sums
        # Each valid key adds at least 1/2; where there is none, nothing is to be divided.
        denominator = torch.where(z[..., :1] == 0, 1, z[..., :1])
        of_numerator = dy[:, start:end] / denominator
        of_denominator = -(of_numerator * z[..., 1:] / denominator).sum(-1, keepdim=True)
        dz = torch.cat((of_denominator, of_numerator), dim=-1)
        dscores = (dz @ v[:, :end].transpose(1, 2)).mul_(scores.add_(1))
        dscores[..., start:].tril_()
        torch.bmm(dscores, k[:, :end], out=dq[:, start:end])
        if started:
            dq[:, start:end] += _through_features(dz @ sums.transpose(1, 2), own)
        dk[:, :end].baddbmm_(dscores.transpose(1, 2), own)
        dv[:, :end].baddbmm_(weights.transpose(1, 2), dz)
    return dq, dk, dv


def _through_features(gradient: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of x (N,C,d) from that of its weighted features (N,C,F)."""
    width = x.shape[-1]
    row = torch.arange(width * (width + 1) // 2, device=x.device)
    first, second = row % width, (row + row // width) % width
    products = gradient[..., 1 + width :] * torch.where(row < width, 0.5, 1.0).to(x.dtype)
    found = gradient[..., 1 : 1 + width].clone()
    found.index_add_(-1, first, products * x[..., second])
    return found.index_add_(-1, second, products * x[..., first])
