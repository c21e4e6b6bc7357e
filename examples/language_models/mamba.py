"""A Mamba-like language model in plain PyTorch: a short causal convolution, then a selective state space.

hsm-export export examples/language_models/mamba.py:make --decode -o mamba.onnx
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_models.decoding import State, StateEntry, StatefulModule, extended, scanned, valid

VOCAB, WIDTH, INNER, STATE, TAPS, LAYERS = 256, 24, 32, 4, 4, 2


class Mamba(StatefulModule):
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t + D x_t on what the convolution gives; gated."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.taps = nn.Parameter(torch.randn(TAPS, INNER) / TAPS)
        self.select = nn.Linear(INNER, 2 * STATE + 1)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, STATE + 1)).repeat(INNER, 1))
        self.dt = nn.Parameter(torch.randn(INNER))
        self.skip = nn.Parameter(torch.ones(INNER))
        self.leave = nn.Linear(INNER, WIDTH, bias=False)

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        return {"conv": StateEntry((TAPS - 1, INNER)), "ssm": StateEntry((INNER, STATE), type="accumulator")}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        u, gate = self.enter(x).chunk(2, dim=-1)
        known, conv = extended(state["conv"], u, lengths)
        length = x.shape[1]
        u = F.silu(sum(self.taps[i] * known[:, i : i + length] for i in range(TAPS)))
        b, c, dt = self.select(u).split((STATE, STATE, 1), dim=-1)
        h = state["ssm"]
        wide = u.to(h.dtype)
        dt = F.softplus((dt + self.dt).to(h.dtype)).unsqueeze(-1)
        # Padding neither decays the state nor adds to it.
        dt = torch.where(valid(x, lengths)[:, :, None, None], dt, 0.0)
        decay = torch.exp(-torch.exp(self.log_a.to(h.dtype)) * dt)
        add = dt * b.to(h.dtype).unsqueeze(2) * wide.unsqueeze(-1)

        def one(h: Tensor, decay: Tensor, add: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            h = decay * h + add
            return h, (h * c.unsqueeze(1)).sum(-1)

        h, y = scanned(one, h, (decay, add, c.to(h.dtype)))
        y = (y + self.skip.to(h.dtype) * wide).to(x.dtype)
        return self.leave(y * F.silu(gate)), {"conv": conv, "ssm": h}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(WIDTH), Mamba()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))


class MambaModel(nn.Module):
    """tokens (B,T) -> logits (B,T,V); the table of the embedding is that of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.embedding.weight)


def make() -> MambaModel:
    """Return the model; load your weights here."""
    torch.manual_seed(0)
    return MambaModel()
