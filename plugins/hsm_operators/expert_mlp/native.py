"""A further right way to round a mixture of experts: the terms of some tokens' products added one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..operator import Operator
from .torch_op import activate

# Elements of products whose terms are added one by one.
_SEQUENTIAL = 1 << 13


def evaluations(
    operator: Operator, plain: Sequence[Tensor], inputs: Sequence[Tensor], attributes: Mapping[str, Any]
) -> list[list[Tensor]]:
    """Return the results of further evaluations, each rounded as a right implementation may round.

    Args:
        operator: ExpertMLP.
        plain: the results of PyTorch's operator, bfloat16 as float32.
        inputs: x, logits, up and down.
        attributes: k and activation.
    """
    x, logits, up, down = inputs
    k = attributes["k"]
    wide = torch.promote_types(up.dtype, torch.float32)
    tokens = max(1, min(x.shape[1], _SEQUENTIAL // max(1, k * (up.shape[2] + down.shape[2]))))
    scores = logits[0, :tokens]
    chosen = torch.argsort(-scores, dim=-1, stable=True)[:, :k]
    read = x[0, :tokens].to(wide).unsqueeze(1).expand(-1, k, -1)
    hidden = activate(_one_by_one(read, up.to(wide), chosen), attributes["activation"])
    gates = torch.sigmoid(scores.gather(-1, chosen)).to(wide)
    summed = (gates.unsqueeze(-1) * _one_by_one(hidden, down.to(wide), chosen)).sum(1)
    result = plain[0].clone()
    result[0, :tokens] = summed.to(x.dtype).to(result.dtype)
    return [[result]]


def _one_by_one(rows: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """Return rows (tokens,k,in) times the chosen matrices of weight (E,in,out), from the first term on."""
    total = rows.new_zeros(*chosen.shape, weight.shape[2])
    for term in range(weight.shape[1]):
        total += rows[..., term, None] * weight[:, term][chosen]
    return total
