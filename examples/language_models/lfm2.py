"""A hybrid like LFM2 in plain PyTorch: gated short convolutions, and attention with a cache, two heads to a key.

hsm-export export examples/language_models/lfm2.py:make --decode --capacity 2048 -o lfm2.onnx
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_models.decoding import State, StateEntry, StatefulModule, extended, written

VOCAB, WIDTH, HEADS, GROUPS, TAPS, MOST = 256, 32, 4, 2, 3, 4096
HEAD = WIDTH // HEADS


class ShortConvolution(StatefulModule):
    """C * conv(B * x), a causal convolution of each channel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, TAPS, groups=WIDTH, bias=False)

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        return {"conv": StateEntry((TAPS - 1, WIDTH))}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        b, c, u = self.enter(x).chunk(3, dim=-1)
        known, conv = extended(state["conv"], b * u, lengths)
        return self.leave(c * self.conv(known.transpose(1, 2)).transpose(1, 2)), {"conv": conv}


class Attention(StatefulModule):
    """Causal attention with rotary positions; keys and values lie as (batch, groups, capacity, head)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = nn.Linear(WIDTH, GROUPS * HEAD), nn.Linear(WIDTH, GROUPS * HEAD)

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        entry = StateEntry((GROUPS, None, HEAD), "position")
        return {"key": entry, "value": entry}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        positions = position.unsqueeze(1) + torch.arange(x.shape[1])
        q = rotated(self.query(x).unflatten(-1, (HEADS, HEAD)), positions)
        new = {
            "key": rotated(self.key(x).unflatten(-1, (GROUPS, HEAD)), positions),
            "value": self.value(x).unflatten(-1, (GROUPS, HEAD)),
        }
        after = {name: written(past.transpose(1, 2), new[name], position, lengths) for name, past in state.items()}
        k, v = (after[name].repeat_interleave(HEADS // GROUPS, dim=2) for name in ("key", "value"))
        visible = torch.arange(k.shape[1]) <= positions.unsqueeze(-1)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=visible.unsqueeze(1)
        )
        return self.leave(y.transpose(1, 2).flatten(2)), {name: t.transpose(1, 2) for name, t in after.items()}


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    """Turn x (B,T,H,f) by its positions (B,T), half against half."""
    angles = positions.unsqueeze(-1) * 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
    cos, sin = angles.cos().unsqueeze(2).to(x.dtype), angles.sin().unsqueeze(2).to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1, self.mixer, self.norm2 = nn.LayerNorm(WIDTH), mixer, nn.LayerNorm(WIDTH)
        self.gate, self.up, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class LFM2(nn.Module):
    """tokens (B,T) -> logits (B,T,V); trained on rows of at most `max_length` tokens."""

    max_length = MOST

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(map(Block, (ShortConvolution(), Attention(), ShortConvolution())))
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make() -> LFM2:
    """Return the model; load your weights here."""
    torch.manual_seed(0)
    return LFM2()
