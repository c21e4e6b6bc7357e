"""Gated linear attention (arXiv:2312.06635): linear attention whose state forgets, by a gate of each key channel.

    S_t = exp(g_t) ∘ S_{t-1} + k_tᵀ v_t        y_t = q_t S_t        S: K×V per head

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


def step(state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Read one token: q, k, g (B,H,K), v (B,H,V); return the new state (B,H,K,V) and y (B,H,V)."""
    state = torch.exp(g).unsqueeze(-1) * state + k.unsqueeze(-1) * v.unsqueeze(-2)
    return state, (q.unsqueeze(-2) @ state).squeeze(-2)


gated_linear_attention = hsm_export.operator(
    "acme::GatedLinearAttention",
    "q[B,T,H,K], k[B,T,H,K], v[B,T,H,V], g[B,T,H,K], state: float32[B,H,K,V], lengths: int64[B] in 0..T"
    " -> y[B,T,H,V], state",
    step=step,
    cost=hsm_export.Cost("6*B*T*H*K*V", "6HKV"),
    description="Linear attention with a gate of each key channel.",
)


@dataclass(frozen=True)
class GatedLinearAttentionConfig(MixerConfig):
    """Heads H; the width K of keys as a share of the model's; the divisor of the gates' logarithms."""

    heads: int = 2
    key_share: float = 0.5
    gate_divisor: float = 16.0


@mixer("acme_gla", GatedLinearAttentionConfig)
class GatedLinearAttention(Mixer):
    """The layer of the paper: gates of low rank, normalised heads, an output gate."""

    def __init__(self, width: int, config: GatedLinearAttentionConfig) -> None:
        super().__init__()
        keys = int(width * config.key_share)
        self.heads, self.key_dim, self.value_dim = config.heads, keys // config.heads, width // config.heads
        self.divisor = config.gate_divisor
        self.qk = nn.Linear(width, 2 * keys, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.gate = nn.Sequential(nn.Linear(width, 16, bias=False), nn.Linear(16, keys))
        self.output_gate = nn.Linear(width, width)
        self.norm = nn.RMSNorm(self.value_dim, eps=1e-5)
        self.output = nn.Linear(width, width, bias=False)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._mix(x)[0]

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {"state": StateEntry((self.heads, self.key_dim, self.value_dim), type="accumulator")}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        y, new = self._mix(x, state=state["state"], lengths=lengths)
        return y, {"state": new}

    def _mix(self, x: Tensor, **past: Tensor) -> tuple[Tensor, Tensor]:
        q, k = (part.unflatten(-1, (self.heads, self.key_dim)) for part in self.qk(x).chunk(2, dim=-1))
        v = self.v(x).unflatten(-1, (self.heads, self.value_dim))
        g = (F.logsigmoid(self.gate(x)) / self.divisor).unflatten(-1, (self.heads, self.key_dim))
        y, state = gated_linear_attention(q * self.key_dim**-0.5, k, v, g, **past)
        return self.output(self.norm(y).flatten(2) * F.silu(self.output_gate(x))), state
