"""The gated short convolution of LFM2 (Liquid AI): a causal convolution of few tokens between two gates.

    p_t = b_t ∘ x_t        y_t = c_t ∘ Σ_i w_i ∘ p_{t-K+1+i}        i = 0 … K-1

The state holds the last K-1 products p, oldest first. Given as one step; all else follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hsm_export
from hsm_models.mixers import Mixer, State, StateEntry
from hsm_models.parts import MixerConfig, mixer


def step(tail: Tensor, b: Tensor, c: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Read one token: b, c, x (B,D), weight (D,K); return the new tail (B,K-1,D) and y (B,D)."""
    window = torch.cat((tail, (b * x).unsqueeze(1)), dim=1)
    return window[:, 1:], c * (window * weight.t()).sum(1)


short_convolution = hsm_export.operator(
    "acme::GatedShortConvolution",
    "b[B,T,D], c[B,T,D], x[B,T,D], weight[D,K], tail: float32[B,R=K-1,D], lengths: int64[B] in 0..T -> y[B,T,D], tail",
    step=step,
    cost=hsm_export.Cost("(2*K+2)*B*T*D", "(2K+2)D"),
    description="A causal convolution of K tokens between two gates.",
)


@dataclass(frozen=True)
class ShortConvolutionConfig(MixerConfig):
    """Tokens K that the convolution sees, itself included."""

    taps: int = 3


@mixer("acme_short_convolution", ShortConvolutionConfig)
class ShortConvolution(Mixer):
    """One projection to both gates and the convolved sequence, the operator, and a projection back."""

    def __init__(self, width: int, config: ShortConvolutionConfig) -> None:
        super().__init__()
        self.width = width
        self.taps = config.taps
        self.input = nn.Linear(width, 3 * width, bias=False)
        self.weight = nn.Parameter(torch.empty(width, self.taps))
        nn.init.uniform_(self.weight, -(self.taps**-0.5), self.taps**-0.5)
        self.output = nn.Linear(width, width, bias=False)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.output(short_convolution(*self.input(x).chunk(3, dim=-1), self.weight)[0])

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {"tail": StateEntry((self.taps - 1, self.width), type="accumulator")}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        parts = self.input(x).chunk(3, dim=-1)
        y, tail = short_convolution(*parts, self.weight, tail=state["tail"], lengths=lengths)
        return self.output(y), {"tail": tail}
