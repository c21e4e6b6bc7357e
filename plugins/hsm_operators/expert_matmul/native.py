"""A further right way to round an expert product: the terms of some tokens' products added one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..operator import Operator

# Elements of products whose terms are added one by one.
_SEQUENTIAL = 1 << 13


def evaluations(
    operator: Operator, plain: Sequence[Tensor], inputs: Sequence[Tensor], attributes: Mapping[str, Any]
) -> list[list[Tensor]]:
    """Return the results of further evaluations, each rounded as a right implementation may round.

    Args:
        operator: ExpertMatMul or ExpertMatMulSum.
        plain: the results of PyTorch's operator, bfloat16 as float32.
        inputs: x, logits and weight.
        attributes: k.
    """
    x, logits, weight = inputs
    summed = "H" in operator.port("x").shape  # ExpertMatMulSum reads x by head, and adds the heads
    heads, experts = logits.shape[2:]
    tokens = max(1, min(x.shape[1], _SEQUENTIAL // max(1, heads * experts * weight.shape[-1])))
    wide = torch.promote_types(weight.dtype, torch.float32)
    part, scores = x[:1, :tokens].to(wide), logits[:1, :tokens]
    per_head = part if summed else part[:, :, None].expand(-1, -1, heads, -1)
    left, right = per_head.numpy(), weight.to(wide).numpy()
    total = np.zeros((1, tokens, heads, experts, weight.shape[-1]), left.dtype)
    for term in range(weight.shape[2]):
        total += left[:, :, :, None, term, None] * right[:, :, term]
    chosen = torch.argsort(-scores, dim=-1, stable=True)[..., : attributes["k"]]
    gates = torch.zeros_like(scores).scatter(-1, chosen, torch.sigmoid(scores.gather(-1, chosen))).to(wide)
    mixed = (gates[..., None] * torch.from_numpy(total)).sum(-2)
    result = plain[0].clone()
    result[:1, :tokens] = (mixed.sum(2) if summed else mixed).to(x.dtype).to(result.dtype)
    return [[result]]
