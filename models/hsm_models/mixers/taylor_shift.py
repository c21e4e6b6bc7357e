"""TaylorShift attention: softmax with its exponential replaced by 1 + x + x^2/2 (arXiv:2403.02920)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsm_models.ops import causal_taylor_shift, taylor_shift, taylor_shift_masked

from ..state import State, StateEntry
from .mixer import Mixer, resolve_head_dim


class TaylorShift(Mixer):
    """Multi-head TaylorShift attention.

    Parameters are named as in the authors' code: `qkv` (3*H*d, D), `proj` (D, H*d), `temperature` (1,H,1,1).

    Args:
        width: model width D.
        heads: number of heads H.
        head_dim: width d of a head; None means D / H.
        causal: token t attends to tokens <= t only (our extension).
        normalize: normalise q and k and multiply q by a learned temperature per head.
        output_norm: multiply the output by sqrt(N / d); bidirectional only.
        form: "direct", O(N^2 d), "efficient", O(N d^3), or "auto", the cheaper one; bidirectional only.
        bias: biases in both projections.

    Raises:
        ValueError: heads that do not split the width, or output_norm together with causal.
    """

    def __init__(
        self,
        width: int,
        heads: int = 4,
        head_dim: int | None = None,
        causal: bool = False,
        normalize: bool = True,
        output_norm: bool = False,
        form: str = "auto",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if causal and output_norm:
            raise ValueError("output_norm has no meaning when causal is true")
        self.heads = heads
        self.head_dim = resolve_head_dim(width, heads, head_dim)
        self.causal = causal
        self.normalize = normalize
        self.output_norm = output_norm
        self.form = form
        self.qkv = nn.Linear(width, 3 * heads * self.head_dim, bias=bias)
        self.proj = nn.Linear(heads * self.head_dim, width, bias=bias)
        self.temperature = nn.Parameter(torch.ones(1, heads, 1, 1)) if normalize else None

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.causal:
            batch, length = x.shape[:2]
            everything = torch.full((batch,), length, dtype=torch.int64, device=x.device)
            return self._forward_causal(x, self.initial_state(batch, 0), everything)[0]
        q, k, v = self._project(x)
        flags = (self.normalize, self.output_norm, self.form)
        if lengths is None:
            y = taylor_shift(q, k, v, self._temperature(x), *flags)
        else:
            y = taylor_shift_masked(q, k, v, self._temperature(x), lengths, *flags)
        return self.proj(y.flatten(2))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"state": (B,H,F,d), "norm": (B,H,F)} with F = 1 + d + d(d+1)/2; sums cannot take tokens back."""
        if not self.causal:
            return super().state_entries(rollback)
        d = self.head_dim
        features = 1 + d + d * (d + 1) // 2
        return {
            "state": StateEntry((self.heads, features, d), type="accumulator"),
            "norm": StateEntry((self.heads, features), type="accumulator"),
        }

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        if not self.causal:
            return super().forward_cached(x, state, position, lengths)
        return self._forward_causal(x, state, lengths)

    def _forward_causal(self, x: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
        q, k, v = self._project(x)
        y, sums, norm = causal_taylor_shift(
            q, k, v, self._temperature(x), state["state"], state["norm"], lengths, self.normalize
        )
        return self.proj(y.flatten(2)), {"state": sums, "norm": norm}

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, each (B,T,H,d)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        return q, k, v

    def _temperature(self, x: Tensor) -> Tensor:
        """Return the temperature (H,); the un-normalised polynomial has none, which is the same as 1."""
        return x.new_ones(self.heads) if self.temperature is None else self.temperature.reshape(self.heads)
