"""Multi-scale retention (arXiv:2307.08621): linear attention whose state forgets at a rate of each head's own.

    S_t = γ_h S_{t-1} + k_tᵀ v_t        y_t = q_t S_t        γ_h = 1 - 2^(-5-h)

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
from hsm_models.positions import absolute_positions, rotary_tables, rotate


def step(state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Read one token: q, k (B,H,K), v (B,H,V), decay (H); return the new state (B,H,K,V) and y (B,H,V)."""
    state = decay[:, None, None] * state + k.unsqueeze(-1) * v.unsqueeze(-2)
    return state, (q.unsqueeze(-2) @ state).squeeze(-2)


retention = hsm_export.operator(
    "acme::Retention",
    "q[B,T,H,K], k[B,T,H,K], v[B,T,H,V], decay: float32[H], state: float32[B,H,K,V], lengths: int64[B] in 0..T"
    " -> y[B,T,H,V], state",
    step=step,
    cost=hsm_export.Cost("5*B*T*H*K*V", "5HKV"),
    description="Linear attention that forgets at a rate of each head's own.",
)


@dataclass(frozen=True)
class RetentionConfig(MixerConfig):
    """Heads H, and the base of the rotations' wavelengths."""

    heads: int = 2
    rope_base: float = 10000.0


@mixer("acme_retention", RetentionConfig)
class Retention(Mixer):
    """The layer of the paper: rotated queries and keys, normalised heads, an output gate."""

    def __init__(self, width: int, config: RetentionConfig) -> None:
        super().__init__()
        self.heads, self.head_dim, self.rope_base = config.heads, width // config.heads, config.rope_base
        self.qkvg = nn.Linear(width, 4 * width, bias=False)
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-5, elementwise_affine=False)
        self.output = nn.Linear(width, width, bias=False)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._mix(x, absolute_positions(x))[0]

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {"state": StateEntry((self.heads, self.head_dim, self.head_dim), type="accumulator")}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        y, new = self._mix(x, absolute_positions(x, position), state=state["state"], lengths=lengths)
        return y, {"state": new}

    def _mix(self, x: Tensor, positions: Tensor, **past: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, gate = self.qkvg(x).chunk(4, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, self.head_dim)) for part in (q, k, v))
        tables = rotary_tables(positions, self.head_dim // 2 * 2, self.rope_base, x.dtype)
        q, k = rotate(q, tables) * self.head_dim**-0.5, rotate(k, tables)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        decay = 1 - torch.exp2(-5 - torch.arange(self.heads, device=x.device, dtype=wide))
        y, state = retention(q, k, v, decay, **past)
        return self.output(self.norm(y).flatten(2) * F.silu(gate)), state
