"""The real-gated linear recurrent unit of Griffin (arXiv:2402.19427).

    a_t = exp(-8 softplus(Λ) σ(r_t))        h_t = a_t h_{t-1} + sqrt(1 - a_t²) (σ(i_t) x_t)

The operator is given as one step; sequences, chunks, the ONNX body and decoding follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hsm_export
from hsm_models.mixers import Mixer, State, StateEntry
from hsm_models.parts import MixerConfig, mixer


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)) without the logarithm of a number near 1, which onnx's own evaluator takes."""
    e = torch.exp(-x.abs())
    return torch.relu(x) + 2 * torch.atanh(e / (2 + e))


def step(h: Tensor, x: Tensor, r: Tensor, i: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Read one token: x, r, i (B,D), rate Λ (D); return the new state and the output, which are the same."""
    log_a = -8 * softplus(rate) * torch.sigmoid(r)
    a = torch.exp(log_a)
    # 1 - a² without the difference of two numbers near 1, and without expm1, which ONNX does not have.
    h = a * h + torch.sqrt(torch.tanh(-log_a) * (1 + a * a)) * torch.sigmoid(i) * x
    return h, h


rg_lru = hsm_export.operator(
    "acme::RGLRU",
    "x[B,T,D], r[B,T,D], i[B,T,D], rate[D], h: float32[B,D], lengths: int64[B] in 0..T -> y[B,T,D], h",
    step=step,
    cost=hsm_export.Cost("20*B*T*D", "20D"),
    description="A diagonal linear recurrence whose decay and input are gated by the token.",
)


@dataclass(frozen=True)
class RGLRUConfig(MixerConfig):
    """Channels of the recurrence as a multiple of the model's."""

    expansion: int = 1


@mixer("acme_rg_lru", RGLRUConfig)
class RGLRU(Mixer):
    """The recurrent block of the paper without its convolution: two branches, one of them recurrent."""

    def __init__(self, width: int, config: RGLRUConfig) -> None:
        super().__init__()
        self.inner = width * config.expansion
        self.input = nn.Linear(width, 2 * self.inner)
        self.gates = nn.Linear(self.inner, 2 * self.inner)
        # softplus(rate) such that a² is uniform from 0.9² to 0.999² where the gate is open.
        rate = torch.empty(self.inner).uniform_(0.9, 0.999).log().neg().div(8).expm1().log()
        self.rate = nn.Parameter(rate)
        self.output = nn.Linear(self.inner, width)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._mix(x)[0]

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {"h": StateEntry((self.inner,), type="accumulator")}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        y, h = self._mix(x, h=state["h"], lengths=lengths)
        return y, {"h": h}

    def _mix(self, x: Tensor, **past: Tensor) -> tuple[Tensor, Tensor]:
        recurrent, gate = self.input(x).chunk(2, dim=-1)
        r, i = self.gates(recurrent).chunk(2, dim=-1)
        y, h = rg_lru(recurrent, r, i, self.rate, **past)
        return self.output(y * F.gelu(gate)), h
