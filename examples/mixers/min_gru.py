"""minGRU (arXiv:2410.01201): a gated recurrent unit whose gate and candidate do not see the past.

    z_t = σ(gate_t)        h_t = (1 - z_t) h_{t-1} + z_t candidate_t

The operator is given as one step; sequences, chunks, the ONNX body and decoding follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hsm_export
from hsm_models.mixers import Mixer, State, StateEntry
from hsm_models.parts import MixerConfig, mixer


def step(h: Tensor, gate: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Read one token: all (B,D); return the new state and the output, which are the same."""
    h = h + torch.sigmoid(gate) * (candidate - h)
    return h, h


min_gru = hsm_export.operator(
    "acme::MinGRU",
    "gate[B,T,D], candidate[B,T,D], h: float32[B,D], lengths: int64[B] in 0..T -> y[B,T,D], h",
    step=step,
    cost=hsm_export.Cost("7*B*T*D", "7D"),
    description="A recurrent unit with a gate that sees the token alone.",
)


@dataclass(frozen=True)
class MinGRUConfig(MixerConfig):
    """Channels of the recurrence as a multiple of the model's."""

    expansion: int = 1


@mixer("acme_min_gru", MinGRUConfig)
class MinGRU(Mixer):
    """Two projections, the recurrence, and a projection back."""

    def __init__(self, width: int, config: MinGRUConfig) -> None:
        super().__init__()
        self.inner = width * config.expansion
        self.gate = nn.Linear(width, self.inner)
        self.candidate = nn.Linear(width, self.inner)
        self.output = nn.Linear(self.inner, width)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.output(min_gru(self.gate(x), self.candidate(x))[0])

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {"h": StateEntry((self.inner,), type="accumulator")}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        y, h = min_gru(self.gate(x), self.candidate(x), h=state["h"], lengths=lengths)
        return self.output(y), {"h": h}
