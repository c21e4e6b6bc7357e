"""Choosing experts, and multiplying the tokens that chose one: what the operators with experts share in PyTorch.

The choices are sorted by expert, so that each expert multiplies one block of rows, and only the chosen ones compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The S = B·T·H·k chosen (token, head, expert) triples.

    Attributes:
        chosen: (B,T,H,k) int64, experts, best first.
        gates: (S,) sigmoids of the chosen logits, by token, then head, then rank.
        order: (S,) int64, the triples by head and expert.
        inverse: (S,) int64, where `order` put each triple.
        sizes: how many triples each of the H·E experts has.
    """

    chosen: Tensor
    gates: Tensor
    order: Tensor
    inverse: Tensor
    sizes: list[int]


def select(logits: Tensor, k: int) -> Selection:
    """Choose the k experts of largest logits (B,T,H,E), ties going to the lower index."""
    heads, experts = logits.shape[2:]
    best, index = logits.sort(dim=-1, descending=True, stable=True)
    best, chosen = best[..., :k], index[..., :k]
    expert = (chosen + experts * torch.arange(heads, device=logits.device).unsqueeze(1)).flatten()
    order = expert.argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    sizes = torch.bincount(expert, minlength=heads * experts).tolist()
    return Selection(chosen, best.sigmoid().flatten(), order, inverse, sizes)


def blockwise(rows: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
    """Multiply consecutive blocks of rows (S,in) with one matrix each of weight (…,in,out), in the rows' dtype.

    Of weights in another dtype, only the matrices that have rows are converted.
    """
    product = rows.new_empty(len(rows), weight.shape[-1])
    matrices = weight.flatten(0, -3)
    for size, out, block, matrix in zip(sizes, product.split(sizes), rows.split(sizes), matrices, strict=True):
        if size:
            torch.mm(block, matrix.to(rows.dtype), out=out)
    return product


def blockwise_outer(rows: Tensor, columns: Tensor, sizes: list[int]) -> Tensor:
    """Return (len(sizes),in,out), each matrix rowsᵀ columns over one of consecutive blocks of (S,in) and (S,out)."""
    product = rows.new_empty(len(sizes), rows.shape[1], columns.shape[1])
    for out, left, right in zip(product, rows.split(sizes), columns.split(sizes), strict=True):
        torch.mm(left.t(), right, out=out)
    return product
