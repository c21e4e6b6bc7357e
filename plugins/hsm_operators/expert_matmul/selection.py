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


@dataclass(frozen=True)
class SortedChoices:
    """The same choices, of which nothing was asked that a GPU has to be waited for.

    Attributes:
        chosen, gates, order: see `Selection`.
        starts: (H·E + 1,) int64, where in `order` each expert's triples begin.
    """

    chosen: Tensor
    gates: Tensor
    order: Tensor
    starts: Tensor


def sort_choices(logits: Tensor, k: int) -> SortedChoices:
    """Choose the k experts of largest logits (B,T,H,E), ties going to the lower index."""
    heads, experts = logits.shape[2:]
    best, index = logits.sort(dim=-1, descending=True, stable=True)
    best, chosen = best[..., :k], index[..., :k]
    expert = (chosen + experts * torch.arange(heads, device=logits.device).unsqueeze(1)).flatten()
    ascending, order = expert.sort(stable=True)
    starts = torch.searchsorted(ascending, torch.arange(heads * experts + 1, device=logits.device))
    return SortedChoices(chosen, best.sigmoid().flatten(), order, starts)


def select(logits: Tensor, k: int) -> Selection:
    """Choose as `sort_choices` does, and say how many chose each expert."""
    found = sort_choices(logits, k)
    inverse = torch.empty_like(found.order)
    inverse[found.order] = torch.arange(len(inverse), device=inverse.device)
    return Selection(found.chosen, found.gates, found.order, inverse, found.starts.diff().tolist())


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
