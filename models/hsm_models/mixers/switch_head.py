"""SwitchHead: causal attention with few heads, whose value and output projections are routed experts.

Csordas et al., NeurIPS 2024 (arXiv:2312.07987).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..experts import ExpertMatMul, ExpertMatMulSum, Router
from ..positions import absolute_positions, rotary_tables, rotate, sinusoids
from ..state import State, StateEntry
from .attention import Memory, attend, causal_mask, memory_entries, remember
from .mixer import Mixer, resolve_head_dim


class SwitchHead(Mixer):
    """SwitchHead attention, eq. 6-10 of the paper, without biases.

    Parameters: `query`, `key` (H*f, D); `value` (H,E,D,f); `output` (H,E,f,D); routers `source`, `destination`
    (H*E, D); for XL positions `position` (H*f, D). With one expert, `value` (H*f, D) and `output` (D, H*f) are dense
    and `destination` (H, D) gates each head's output; there is no `source`. With `same_selection` there is no
    `destination` either.

    Args:
        width: model width D.
        heads: number of heads H.
        head_dim: width f of a head; None means D / H.
        experts: experts E per head.
        active: experts k used per token and head.
        positions: "rope", "xl" (Transformer-XL's relative term, without its biases u and v) or "none".
        rope_fraction: fraction of the head's channels that RoPE turns.
        rope_base: base of RoPE's wavelengths.
        same_selection: the source routing also selects and weights the output experts.
        window: tokens that a token sees at most, itself included (Transformer-XL's context window); None means all.

    Raises:
        ValueError: heads that do not split the width, active experts out of range, unknown positions, or a window
            below 1.
    """

    def __init__(
        self,
        width: int,
        heads: int = 2,
        head_dim: int | None = None,
        experts: int = 4,
        active: int = 2,
        positions: str = "rope",
        rope_fraction: float = 0.5,
        rope_base: float = 10000.0,
        same_selection: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__()
        if positions not in ("rope", "xl", "none"):
            raise ValueError(f"positions must be 'rope', 'xl' or 'none', got {positions!r}")
        if not 1 <= active <= experts:
            raise ValueError(f"active {active} must lie between 1 and experts {experts}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.width = width
        self.heads = heads
        self.head_dim = resolve_head_dim(width, heads, head_dim)
        self.positions = positions
        self.rotary_channels = int(rope_fraction * self.head_dim) // 2 * 2
        self.rope_base = rope_base
        self.window = window
        self.query = nn.Linear(width, heads * self.head_dim, bias=False)
        self.key = nn.Linear(width, heads * self.head_dim, bias=False)
        self.position = nn.Linear(width, heads * self.head_dim, bias=False) if positions == "xl" else None
        self.value: nn.Module
        self.output: nn.Module
        if experts == 1:
            self.value = nn.Linear(width, heads * self.head_dim, bias=False)
            self.output = nn.Linear(heads * self.head_dim, width, bias=False)
            self.source = None
        else:
            self.value = ExpertMatMul(heads, experts, width, self.head_dim, active)
            self.output = ExpertMatMulSum(heads, experts, self.head_dim, width, active)
            self.source = Router(width, heads, experts)
        shares = same_selection and experts > 1
        self.destination = None if shares else Router(width, heads, experts)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        positions = absolute_positions(x)
        source = self._route_source(x)
        q, k, v = self._project(x, positions, source)
        extra = None if self.position is None else self._relative_scores(q, self.position)
        visible = causal_mask(positions, positions, self.window)
        return self._combine(x, attend(q, k, v, visible, extra), source)

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"key", "value"}: (B,C,H,f), or a ring of the last `window + rollback` tokens.

        Keys are stored rotated, values already mixed by their experts: 2*H*f numbers a token.
        """
        return memory_entries(self.heads, self.head_dim, self.window, rollback)

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        positions = absolute_positions(x, position)
        source = self._route_source(x)
        q, k, v = self._project(x, positions, source)
        memory = remember(state, k, v, position, lengths, self.window)
        visible = causal_mask(positions, memory.position, self.window)
        extra = None if self.position is None else self._cached_relative_scores(q, positions, memory, self.position)
        return self._combine(x, attend(q, memory.key, memory.value, visible, extra), source), memory.state

    def _route_source(self, x: Tensor) -> Tensor | None:
        return None if self.source is None else self.source(x)

    def _project(self, x: Tensor, positions: Tensor, source: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v (B,T,H,f), with q and k each scaled by f^-1/4 and, with RoPE, rotated."""
        scale = self.head_dim**-0.25
        q = self._split_heads(self.query(x)) * scale
        k = self._split_heads(self.key(x)) * scale
        v = self._split_heads(self.value(x)) if source is None else self.value(x, source)
        if self.positions == "rope" and self.rotary_channels:
            tables = rotary_tables(positions, self.rotary_channels, self.rope_base, x.dtype)
            q, k = rotate(q, tables), rotate(k, tables)
        return q, k, v

    def _combine(self, x: Tensor, attended: Tensor, source: Tensor | None) -> Tensor:
        """Project the attended values (B,T,H,f) back to (B,T,D) with the experts that the input x chooses."""
        logits = source if self.destination is None else self.destination(x)
        assert logits is not None
        if self.source is None:
            return self.output((attended * torch.sigmoid(logits).to(attended.dtype)).flatten(2))
        return self.output(attended, logits)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim))

    def _relative_scores(self, q: Tensor, position: nn.Linear) -> Tensor:
        """Return XL's term q_i (W PE(j - i)) / sqrt(f) for all i, j in the sequence: (B,H,T,T), valid for j <= i.

        Column m of the product belongs to distance m - (T-1); row i must move left by T-1-i columns. One column of
        padding makes the rows T+1 long, and reading them as rows of T shifts each row by one more than the last.
        """
        batch, length = q.shape[:2]
        distances = torch.arange(length, device=q.device) - (length - 1)
        keys = self._split_heads(position(sinusoids(distances, self.width, q.dtype))) * self.head_dim**-0.25
        scores = q.transpose(1, 2) @ keys.permute(1, 2, 0)
        padded = F.pad(scores, (1, 0)).reshape(batch, self.heads, length + 1, length)
        return padded[:, :, 1:]

    def _cached_relative_scores(self, q: Tensor, positions: Tensor, memory: Memory, position: nn.Linear) -> Tensor:
        """Return the same term against every key of the memory, (B,H,T,S), valid for the keys that i may see.

        The weight is applied to the few new queries instead of to the many distances.
        """
        weight = self._split_heads(position.weight.t()) * self.head_dim**-0.25
        wide = torch.einsum("bthf,dhf->bhtd", q, weight)
        span = memory.key.shape[1] if self.window is None else self.window
        columns = torch.arange(span, device=q.device)
        scores = wide @ sinusoids(columns - (span - 1), self.width, q.dtype).t()
        distance = memory.position.unsqueeze(1) - positions.unsqueeze(2)
        column = (distance + (span - 1)).clamp(min=0).minimum(columns[-1]).unsqueeze(1)
        return scores.gather(-1, column.expand(-1, self.heads, -1, -1))
