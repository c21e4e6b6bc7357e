"""Plain causal softmax attention: the baseline, and the other half of hybrids."""

from __future__ import annotations

from torch import Tensor, nn

from ..positions import absolute_positions, rotary_tables, rotate
from ..state import State, StateEntry
from .attention import attend, causal_mask, memory_entries, remember
from .mixer import Mixer, resolve_head_dim


class SoftmaxAttention(Mixer):
    """Causal multi-head softmax attention with rotary positions.

    Args:
        width: model width D.
        heads: number of heads H.
        head_dim: width f of a head; None means D / H.
        positions: "rope" or "none".
        rope_base: base of RoPE's wavelengths.
        bias: biases in both projections.
        window: tokens that a token sees at most, itself included (sliding-window attention); None means all.

    Raises:
        ValueError: heads that do not split the width, unknown positions, or a window below 1.
    """

    def __init__(
        self,
        width: int,
        heads: int = 4,
        head_dim: int | None = None,
        positions: str = "rope",
        rope_base: float = 10000.0,
        bias: bool = True,
        window: int | None = None,
    ) -> None:
        super().__init__()
        if positions not in ("rope", "none"):
            raise ValueError(f"positions must be 'rope' or 'none', got {positions!r}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.heads = heads
        self.head_dim = resolve_head_dim(width, heads, head_dim)
        self.positions = positions
        self.rope_base = rope_base
        self.window = window
        self.qkv = nn.Linear(width, 3 * heads * self.head_dim, bias=bias)
        self.proj = nn.Linear(heads * self.head_dim, width, bias=bias)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        positions = absolute_positions(x)
        q, k, v = self._project(x, positions)
        visible = causal_mask(positions, positions, self.window)
        return self.proj(attend(q, k, v, visible).flatten(2))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"key", "value"}: (B,C,H,f), or a ring of the last `window + rollback` tokens; keys are rotated."""
        return memory_entries(self.heads, self.head_dim, self.window, rollback)

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        positions = absolute_positions(x, position)
        q, k, v = self._project(x, positions)
        memory = remember(state, k, v, position, lengths, self.window)
        visible = causal_mask(positions, memory.position, self.window)
        return self.proj(attend(q, memory.key, memory.value, visible).flatten(2)), memory.state

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v (B,T,H,f), with q and k each scaled by f^-1/4 and rotated."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        scale = self.head_dim**-0.25
        q, k = q * scale, k * scale
        if self.positions == "rope":
            tables = rotary_tables(positions, self.head_dim // 2 * 2, self.rope_base, x.dtype)
            q, k = rotate(q, tables), rotate(k, tables)
        return q, k, v
