"""Hierarchical Shift Mixing: each token mixes with one a fixed shift back (our reading of arXiv:2601.22852)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hsm_models.ops import shift_mix, shift_mix_cached, token_shift, token_shift_cached

from ..positions import absolute_positions
from ..state import State, StateEntry
from .mixer import Mixer
from .mixing import ShiftMixing, build_mixing


class HSM(Mixer):
    """y_t = f(u_t, u_{t-s}) for the mixer's input u (B,T,D) and any mixing function f.

    Args:
        width: model width D.
        shifts: shift s >= 1 in tokens of each equal group of channels, first channels first.
        mixing: a name from `hsm_models.config.MIXINGS`, or any nn.Module of (u_t, u_{t-s}), both (B,T,D), that
            returns (B,T,D) and treats every token alone.
        padding: u before the first token: "zero", or "learned", a parameter (D,).
        hidden: hidden width of the "fusion" mixing; None means D.

    Raises:
        ValueError: a shift below 1, shifts that do not divide the width, or an unknown mixing or padding.
    """

    def __init__(
        self,
        width: int,
        shifts: Sequence[int] = (1,),
        mixing: str | nn.Module = "vector",
        padding: str = "zero",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if not shifts or min(shifts) < 1 or width % len(shifts):
            raise ValueError(f"shifts must be >= 1 and divide the width {width} into equal groups, got {list(shifts)}")
        if padding not in ("zero", "learned"):
            raise ValueError(f"padding must be 'zero' or 'learned', got {padding!r}")
        self.width = width
        self.shifts = [int(shift) for shift in shifts]
        self.mixing = mixing if isinstance(mixing, nn.Module) else build_mixing(mixing, width, len(shifts), hidden)
        self.pad = nn.Parameter(torch.zeros(width)) if padding == "learned" else None

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        before_start = self._before_start(x, None)
        if isinstance(self.mixing, ShiftMixing):
            alpha, beta = self.mixing.channel_weights()
            return self._add_pad(shift_mix(x, alpha, beta, self.shifts), beta, before_start)
        return self.mixing(x, self._replace_pad(token_shift(x, self.shifts), before_start))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"ring": (B,R,D)}: the last R = max shift + rollback inputs of each row."""
        return {"ring": StateEntry((max(self.shifts) + rollback, self.width), "slots", spare=rollback)}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        before_start = self._before_start(x, position)
        if isinstance(self.mixing, ShiftMixing):
            alpha, beta = self.mixing.channel_weights()
            y, ring = shift_mix_cached(x, alpha, beta, state["ring"], position, lengths, self.shifts)
            return self._add_pad(y, beta, before_start), {"ring": ring}
        shifted, ring = token_shift_cached(x, state["ring"], position, lengths, self.shifts)
        return self.mixing(x, self._replace_pad(shifted, before_start)), {"ring": ring}

    def _before_start(self, x: Tensor, position: Tensor | None) -> Tensor | None:
        """Return where u_{t-s} lies before the first token, (1 or B, T, D) bool; None if zeros stand there anyway."""
        if self.pad is None:
            return None
        repeats = self.width // len(self.shifts)
        shift = torch.tensor([s for s in self.shifts for _ in range(repeats)], device=x.device)
        return absolute_positions(x, position).unsqueeze(-1) < shift

    def _replace_pad(self, shifted: Tensor, before_start: Tensor | None) -> Tensor:
        if self.pad is None or before_start is None:
            return shifted
        return torch.where(before_start, self.pad, shifted)

    def _add_pad(self, mixed: Tensor, beta: Tensor, before_start: Tensor | None) -> Tensor:
        """Add beta * pad where the operator, which knows zero padding only, added nothing."""
        if self.pad is None or before_start is None:
            return mixed
        return torch.where(before_start, mixed + beta * self.pad, mixed)
