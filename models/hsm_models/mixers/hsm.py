"""Hierarchical Shift Mixing: each token mixes with one a fixed shift back (our reading of arXiv:2601.22852)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hsm_models.ops import shift_mix, shift_mix_cached, token_shift, token_shift_cached
from hsm_operators.shift_mix.spec import SHIFTS

from ..dataclass_json import LIMIT
from ..errors import require
from ..parts import MixerConfig, Place, mixer
from ..positions import absolute_positions
from .mixer import Mixer, State, StateEntry
from .mixing import CUSTOM, MIXINGS, ShiftMixing, build_mixing


@dataclass(frozen=True)
class HSMConfig(MixerConfig):
    """Hierarchical Shift Mixing: y_t = f(u_t, u_{t-s}) (our reading of arXiv:2601.22852).

    Attributes:
        shifts: one shift s, in tokens, for each equal group of channels, first channels first; None means
            (2**layer_index,). The operators say which shifts there are.
        mixing: the mixing function f, one of `mixing.MIXINGS`; "custom" marks a user-written module, which a
            configuration cannot rebuild.
        padding: what u is before the first token: zeros, or a learned vector (width,).
        hidden: hidden width of the "fusion" mixing's MLP; None means the model's width.
    """

    shifts: tuple[int, ...] | None = None
    mixing: str = "vector"
    padding: Literal["zero", "learned"] = "zero"
    hidden: int | None = None

    def check(self, place: Place) -> None:
        super().check(place)
        require(
            self.shifts is not None or 2**place.index < LIMIT,
            f"{place.where}: the default shift 2**{place.index} is too long; give shifts",
        )
        require(
            self.mixing in (*MIXINGS, CUSTOM),
            f"{place.where}.mixing must be one of {', '.join(MIXINGS)}, got {self.mixing!r}",
        )
        if self.shifts is not None:
            self._check_shifts(self.shifts, place)
        require(self.hidden is None or self.hidden > 0, f"{place.where}.hidden must be positive")

    def _check_shifts(self, shifts: tuple[int, ...], place: Place) -> None:
        require(len(shifts) > 0, f"{place.where}.shifts must not be empty")
        least = SHIFTS.least
        require(least is None or min(shifts) >= least, f"{place.where}.shifts must be >= {least}, got {tuple(shifts)}")
        require(
            place.width % len(shifts) == 0,
            f"{place.where}: width {place.width} does not split into {len(shifts)} equal groups, one per shift",
        )

    def resolved(self, place: Place) -> Self:
        return self if self.shifts is not None else replace(self, shifts=(2**place.index,))


@mixer("hsm", HSMConfig)
class HSM(Mixer):
    """y_t = f(u_t, u_{t-s}) for the mixer's input u (B,T,D) and any mixing function f.

    Args:
        width: model width D.
        *fields, **named: an `HSMConfig`, or its fields. `mixing` may also be any nn.Module of (u_t, u_{t-s}), both
            (B,T,D), that returns (B,T,D) and treats every token alone.

    Raises:
        ConfigError: a shift out of range, shifts that do not divide the width, or an unknown mixing or padding.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        own = next((value for value in (*fields, *named.values()) if isinstance(value, nn.Module)), None)
        config = HSMConfig.given(width, *map(_written, fields), **{name: _written(named[name]) for name in named})
        assert config.shifts is not None
        self.width = width
        self.shifts = list(config.shifts)
        self.mixing = build_mixing(config.mixing, width, len(config.shifts), config.hidden) if own is None else own
        self.pad = nn.Parameter(torch.zeros(width)) if config.padding == "learned" else None

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        before_start = self._before_start(x, None)
        if isinstance(self.mixing, ShiftMixing):
            alpha, beta = self.mixing.channel_weights()
            return self._add_pad(shift_mix(x, alpha, beta, self.shifts), beta, before_start)
        return self.mixing(x, self._replace_pad(token_shift(x, self.shifts), before_start))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"ring": (B,R,D)}: the last R = max shift + rollback inputs of each row."""
        return {"ring": StateEntry("ring", (max(self.shifts) + rollback, self.width), spare=rollback)}

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


def _written(value: Any) -> Any:
    """Return a field's value as a configuration holds it."""
    return CUSTOM if isinstance(value, nn.Module) else value
