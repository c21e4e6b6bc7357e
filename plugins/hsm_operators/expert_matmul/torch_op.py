"""Products with the experts that a token chooses per head (SwitchHead, arXiv:2312.07987, eq. 7-10).

The k experts with the largest logits are taken, ties going to the lower index; their gates are sigmoid(logit), not
renormalised. Selection is by logit, because float32 sigmoids saturate and tie. Only the chosen experts are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..fused_gradient import FusedGradient
from ..precision import accumulator
from ..registration import register, require
from ..routing import observe
from . import fused
from .selection import blockwise, blockwise_outer, select


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
    return _expert_matmul(x, observe(logits, k), weight, k)


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
    return _expert_matmul_sum(x, observe(logits, k), weight, k)


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
    require(
        tuple(logits.shape[:2]) == tuple(x.shape[:2]),
        # Whole shapes in the message: a single size would tie compiled models to it.
        f"logits {tuple(logits.shape)} do not have the rows and tokens of x {tuple(x.shape)}",
    )
    require(not summed or x.shape[2] == heads, f"x {tuple(x.shape)} does not have the logits' {heads} heads")
    require(1 <= k <= experts, f"k = {k} must lie between 1 and the number of experts {experts}")


def _multiply(x: Tensor, logits: Tensor, weight: Tensor, k: int, shared: int, added: int) -> Tensor:
    """Return (rows,out) of x (rows,in): `shared` triples in a row read one row of x, `added` in a row are summed."""
    wide = accumulator(x.dtype)
    selection = select(logits, k)
    read = x.to(wide)[selection.order // shared]
    product = blockwise(read, weight, selection.sizes)[selection.inverse]
    gates = selection.gates.view(-1, 1, added)
    return torch.bmm(gates, product.view(len(gates), added, weight.shape[3])).squeeze(1).to(x.dtype)


def _multiply_gradient(
    grad: Tensor, x: Tensor, logits: Tensor, weight: Tensor, k: int, shared: int, added: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, logits and weight; one product grad @ weightᵀ serves both x and the gates."""
    wide = accumulator(x.dtype)
    selection = select(logits, k)
    gates = selection.gates
    read = x.to(wide)[selection.order // shared]
    arrived = grad.to(wide)[selection.order // added]
    back = blockwise(arrived, weight.transpose(2, 3), selection.sizes)
    of_gates = (back * read).sum(-1)[selection.inverse] * gates * (1 - gates)
    of_logits = torch.zeros_like(logits).scatter_(-1, selection.chosen, of_gates.view(selection.chosen.shape))
    of_x = torch.bmm(gates.view(-1, 1, shared), back[selection.inverse].view(-1, shared, x.shape[1])).squeeze(1)
    gated = arrived * gates[selection.order].unsqueeze(1)
    of_weight = blockwise_outer(read, gated, selection.sizes).view(weight.shape)
    return of_x, of_logits, of_weight


def _reference(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    heads = logits.shape[2]
    y = _multiply(x.flatten(0, 1), logits, weight, k, shared=heads * k, added=k)
    return y.view(*logits.shape[:3], weight.shape[3])


def _plain_gradient(
    differentiate: Callable[..., tuple[Tensor, Tensor, Tensor]],
    output_gradient: Tensor,
    needed: list[int],
    x: Tensor,
    logits: Tensor,
    weight: Tensor,
    k: int,
) -> dict[int, Tensor]:
    grad, shared = output_gradient.flatten(0, 2), logits.shape[2] * k
    of_x, of_logits, of_weight = differentiate(grad, x.flatten(0, 1), logits, weight, k, shared, k)
    return {0: of_x.view(x.shape), 1: of_logits, 2: of_weight}


def _sum_reference(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    heads = logits.shape[2]
    y = _multiply(x.flatten(0, 2), logits, weight, k, shared=k, added=heads * k)
    return y.view(*logits.shape[:2], weight.shape[3])


def _summed_gradient(
    differentiate: Callable[..., tuple[Tensor, Tensor, Tensor]],
    output_gradient: Tensor,
    needed: list[int],
    x: Tensor,
    logits: Tensor,
    weight: Tensor,
    k: int,
) -> dict[int, Tensor]:
    grad, added = output_gradient.flatten(0, 1), logits.shape[2] * k
    of_x, of_logits, of_weight = differentiate(grad, x.flatten(0, 2), logits, weight, k, k, added)
    return {0: of_x.view(x.shape), 1: of_logits, 2: of_weight}


def _fake(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], weight.shape[0], weight.shape[3]))


def _sum_fake(x: Tensor, logits: Tensor, weight: Tensor, k: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], weight.shape[3]))


_SCHEMA = "(Tensor x, Tensor logits, Tensor weight, int k) -> Tensor"
_gradient = partial(_plain_gradient, _multiply_gradient)
_fused_gradient = partial(_plain_gradient, fused.gradient)
_sum_gradient = partial(_summed_gradient, _multiply_gradient)
_sum_fused_gradient = partial(_summed_gradient, fused.gradient)
_expert_matmul = register(
    "expert_matmul", _SCHEMA, _reference, _fake, _gradient, fused=FusedGradient(_fused_gradient, fused.takes)
)
_expert_matmul_sum = register(
    "expert_matmul_sum",
    _SCHEMA,
    _sum_reference,
    _sum_fake,
    _sum_gradient,
    fused=FusedGradient(_sum_fused_gradient, fused.takes),
)
