"""Plain causal softmax attention: the baseline, and the other half of hybrids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ..dataclass_json import added
from ..errors import require
from ..parts import Place, mixer
from ..positions import absolute_positions, rotary_tables, rotate
from ..state import State, StateEntry
from .attention import (
    attend_remembered,
    attend_whole,
    attention_operations,
    check_rotation,
    check_window,
    memory_entries,
)
from .mixer import HeadsConfig, Mixer


@dataclass(frozen=True)
class SoftmaxConfig(HeadsConfig):
    """Plain causal softmax attention with RoPE, the baseline and the other half of hybrids.

    Attributes:
        heads: number of heads H.
        head_dim: width f of a head; None means width / heads.
        positions: rotary ("rope") or no positions.
        rope_base: base of RoPE's wavelengths.
        bias: biases in the qkv and output projections.
        window: tokens that a token sees at most, itself included (sliding-window attention); None means all.
        rope_fraction: fraction of the head's channels that RoPE turns.
    """

    positions: Literal["rope", "none"] = "rope"
    rope_base: float = 10000.0
    bias: bool = True
    window: int | None = added(None)
    rope_fraction: float = added(1.0)

    def check(self, place: Place) -> None:
        super().check(place)
        require(0 <= self.rope_fraction <= 1, f"{place.where}.rope_fraction must lie in [0, 1]")
        check_rotation(self.rope_base, place)
        check_window(self.window, place)

    def operations(self, width: int, length: int, context: int) -> int | None:
        return attention_operations(self, width, length, context, self.window)


@mixer("softmax", SoftmaxConfig)
class SoftmaxAttention(Mixer):
    """Causal multi-head softmax attention with rotary positions.

    Parameters: `qkv` (3*H*f, D), `proj` (D, H*f).

    Args:
        width: model width D.
        *fields, **named: a `SoftmaxConfig`, or its fields.

    Raises:
        ConfigError: heads that do not split the width, unknown positions, or a window below 1.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = SoftmaxConfig.given(width, *fields, **named)
        self.heads = config.heads
        self.head_dim = config.head_width(width)
        self.positions = config.positions
        self.rope_base = config.rope_base
        self.rotary_channels = int(config.rope_fraction * self.head_dim) // 2 * 2
        self.window = config.window
        self.qkv = nn.Linear(width, 3 * self.heads * self.head_dim, bias=config.bias)
        self.proj = nn.Linear(self.heads * self.head_dim, width, bias=config.bias)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x, absolute_positions(x))
        return self.proj(attend_whole(q, k, v, window=self.window, scale=self.head_dim**-0.25).flatten(2))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"key", "value"}: (B,C,H,f), or a ring of the last `window + rollback` tokens; keys are rotated."""
        return memory_entries(self.heads, self.head_dim, self.window, rollback)

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        q, k, v = self._project(x, absolute_positions(x, position))
        scale = self.head_dim**-0.25
        y, state = attend_remembered(q, k, v, state, position, lengths, window=self.window, scale=scale)
        return self.proj(y.flatten(2)), state

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v (B,T,H,f), with k scaled by f^-1/4, as the cache holds it, and q and k rotated."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        k = k * self.head_dim**-0.25
        if self.positions == "rope" and self.rotary_channels:
            tables = rotary_tables(positions, self.rotary_channels, self.rope_base, x.dtype)
            q, k = rotate(q, tables), rotate(k, tables)
        return q, k, v
