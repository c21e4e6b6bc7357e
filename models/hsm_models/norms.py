"""The norms of layers: LayerNorm, and RMSNorm, which only divides."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hsm_operators.precision import accumulator

NormKind = Literal["layer", "rms"]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, summed in float32 at least (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (...,D)."""
        precise = x.to(accumulator(x.dtype))
        normed = precise * torch.rsqrt(precise.square().mean(dim=-1, keepdim=True) + self.eps)
        return (normed * self.weight).to(x.dtype)


def make_norm(kind: NormKind, width: int, eps: float) -> nn.Module:
    """Return a norm of this kind."""
    return RMSNorm(width, eps) if kind == "rms" else nn.LayerNorm(width, eps=eps)
