"""An RWKV-like language model in plain PyTorch: data-dependent decay of a matrix state, and shifts by one token.

    hsm-export export examples/language_models/rwkv.py:make --decode -o rwkv.onnx

Nothing but `RememberingShift` and `TimeMix` knows that the model decodes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hsm_models.decoding import State, StateEntry, StatefulModule, extended, scanned, valid

VOCAB, WIDTH, HEADS, LAYERS = 256, 32, 2, 2


class RememberingShift(StatefulModule):
    """x (B,T,D) -> the token before each, zeros before the first."""

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        return {"last": StateEntry((1, WIDTH))}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        known, last = extended(state["last"], x, lengths)
        return known[:, :-1], {"last": last}


class TimeMix(StatefulModule):
    """y_t = r_t (S_{t-1} + u k_t v_t), S_t = w_t S_{t-1} + k_t v_t: a matrix (d,d) for each head, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = RememberingShift()
        self.mix = nn.Parameter(torch.rand(4, WIDTH))
        self.receptance, self.key, self.value, self.decay, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.bonus = nn.Parameter(torch.randn(HEADS, WIDTH // HEADS))

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        d = WIDTH // HEADS
        return {"wkv": StateEntry((HEADS, d, d), type="accumulator")}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        mixed = x.unsqueeze(2) + (self.shift(x) - x).unsqueeze(2) * self.mix
        wkv = state["wkv"]
        r, k, v, w = (
            layer(mixed[:, :, i]).unflatten(-1, (HEADS, -1)).to(wkv.dtype)
            for i, layer in enumerate((self.receptance, self.key, self.value, self.decay))
        )
        # Padding neither decays the state nor adds to it.
        is_valid = valid(x, lengths)[:, :, None, None]
        w = torch.where(is_valid, torch.exp(-torch.exp(w - 2)), 1.0)
        k = torch.where(is_valid, k, 0.0)
        bonus = self.bonus.to(wkv.dtype)

        def one(s: Tensor, r: Tensor, k: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            new = k.unsqueeze(-1) * v.unsqueeze(-2)
            y = (r.unsqueeze(-1) * (s + bonus.unsqueeze(-1) * new)).sum(-2)
            return w.unsqueeze(-1) * s + new, y

        wkv, y = scanned(one, wkv, (r, k, v, w))
        return self.output(y.flatten(2).to(x.dtype)), {"wkv": wkv}


class ChannelMix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = RememberingShift()
        self.mix = nn.Parameter(torch.rand(WIDTH))
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x + (self.shift(x) - x) * self.mix)).square())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.time_mix = nn.LayerNorm(WIDTH), TimeMix()
        self.norm2, self.channel_mix = nn.LayerNorm(WIDTH), ChannelMix()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.time_mix(self.norm1(x))
        return x + self.channel_mix(self.norm2(x))


class RWKV(nn.Module):
    """tokens (B,T) -> logits (B,T,V)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(tokens)))


def make() -> RWKV:
    """Return the model; load your weights here."""
    torch.manual_seed(0)
    return RWKV()
