"""Products with the experts that a token chooses per head (SwitchHead, arXiv:2312.07987, eq. 7-10).

The k experts with the largest logits are taken, ties going to the lower index; their gates are sigmoid(logit), not
renormalised. Selection is by logit, because float32 sigmoids saturate and tie.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import accumulator
from .registration import register, require
from .routing import observe


def expert_matmul(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    """Return y[b,t,h] = sum over the top-k e of sigmoid(l[b,t,h,e]) x[b,t] W[h,e].

    Args:
        x: (B,T,D).
        logits: (B,T,H,E), float32 (float64 for float64 x).
        weight: (H,E,D,f) of x's dtype.
        k: experts taken, 1..E.

    Returns:
        (B,T,H,f) of x's dtype.

    Raises:
        ValueError: shapes or dtypes that contradict each other, or k outside 1..E.
    """
    _check(x, logits, weight, k, summed=False)
    return _expert_matmul(x, observe(logits), weight, k)


def expert_matmul_sum(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    """Return y[b,t] = sum over h and the top-k e of sigmoid(l[b,t,h,e]) x[b,t,h] W[h,e].

    Args:
        x: (B,T,H,f).
        logits: (B,T,H,E), float32 (float64 for float64 x).
        weight: (H,E,f,D) of x's dtype.
        k: experts taken, 1..E.

    Returns:
        (B,T,D) of x's dtype.

    Raises:
        ValueError: shapes or dtypes that contradict each other, or k outside 1..E.
    """
    _check(x, logits, weight, k, summed=True)
    return _expert_matmul_sum(x, observe(logits), weight, k)


def gates(logits: Tensor, k: int) -> Tensor:
    """Return sigmoid(logits) at the k largest of the last axis and zero elsewhere, of the same shape and dtype."""
    chosen = torch.sort(logits.detach(), dim=-1, descending=True, stable=True).indices[..., :k]
    taken = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, chosen, True)
    return torch.where(taken, torch.sigmoid(logits), 0)


def _check(x: Tensor, logits: Tensor, weight: Tensor, k: int, summed: bool) -> None:
    rank = 4 if summed else 3
    require(x.dim() == rank, f"x must have {rank} dimensions, got shape {tuple(x.shape)}")
    require(logits.dim() == 4, f"logits must be (B,T,H,E), got shape {tuple(logits.shape)}")
    require(weight.dim() == 4, f"weight must have 4 dimensions (H,E,in,out), got shape {tuple(weight.shape)}")
    require(
        logits.dtype == accumulator(x.dtype),
        f"logits must be {accumulator(x.dtype)} for x of {x.dtype}, got {logits.dtype}",
    )
    require(weight.dtype == x.dtype, f"weight must be {x.dtype} like x, got {weight.dtype}")
    heads, experts = logits.shape[2:]
    require(
        tuple(weight.shape[:2]) == (heads, experts),
        f"weight {tuple(weight.shape)} does not have the logits' {heads} heads and {experts} experts",
    )
    require(weight.shape[2] == x.shape[-1], f"weight {tuple(weight.shape)} does not fit x of width {x.shape[-1]}")
    require(not summed or x.shape[2] == heads, f"x {tuple(x.shape)} does not have the logits' {heads} heads")
    require(1 <= k <= experts, f"k = {k} must lie between 1 and the number of experts {experts}")


def _reference(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    heads, experts, inputs, outputs = weight.shape
    wide = accumulator(x.dtype)
    batch, length = x.shape[:2]
    flat = weight.to(wide).permute(2, 0, 1, 3).reshape(inputs, heads * experts * outputs)
    products = (x.to(wide) @ flat).view(batch, length, heads, experts, outputs)
    return torch.einsum("bthe,btheo->btho", gates(logits, k), products).to(x.dtype)


def _sum_reference(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    heads, experts, inputs, outputs = weight.shape
    wide = accumulator(x.dtype)
    scaled = gates(logits, k).unsqueeze(-1) * x.to(wide).unsqueeze(3)
    return (scaled.flatten(2) @ weight.to(wide).reshape(heads * experts * inputs, outputs)).to(x.dtype)


def _fake(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], weight.shape[0], weight.shape[3]))


def _sum_fake(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], weight.shape[3]))


_SCHEMA = "(Tensor x, Tensor logits, Tensor weight, int k) -> Tensor"
_expert_matmul = register("expert_matmul", _SCHEMA, _reference, _fake)
_expert_matmul_sum = register("expert_matmul_sum", _SCHEMA, _sum_reference, _sum_fake)
