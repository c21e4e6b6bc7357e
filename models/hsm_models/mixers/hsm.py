"""Hierarchical Shift Mixing: each token mixes with one a fixed shift back (our reading of arXiv:2601.22852)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hsm_models.ops import shift_mix, shift_mix_cached, token_shift, token_shift_cached
from hsm_operators.shift_mix.spec import TOKEN_SHIFT, TOKEN_SHIFT_CACHED

from ..dataclass_json import LIMIT, added
from ..errors import require
from ..parts import MixerConfig, Place, mixer
from ..positions import absolute_positions
from ..state import State, StateEntry
from .mixer import Mixer
from .mixing import CUSTOM, MIXINGS, ShiftMixing, build_mixing

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class HSMConfig(MixerConfig):
    """Hierarchical Shift Mixing: y_t = f(u_t, u_{t-s}) (our reading of arXiv:2601.22852).

    Attributes:
        shifts: one shift s, in tokens, for each equal group of channels, first channels first; None means
            (2**layer_index,). A shift of 0 is the token itself, a negative one a later token, if not causal.
        mixing: the mixing function f, one of `mixing.MIXINGS`; "custom" marks a user-written module, which a
            configuration cannot rebuild.
        padding: what u is before the first token and after the last: zeros, or a learned vector (width,).
        hidden: hidden width of the "fusion" mixing's MLP; None means the model's width.
        causal: token t sees tokens <= t only; False allows negative shifts, and no decoding.
    """

    shifts: tuple[int, ...] | None = None
    mixing: str = "vector"
    padding: Literal["zero", "learned"] = "zero"
    hidden: int | None = None
    causal: bool = added(True)

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

    def operations(self, width: int, length: int, context: int) -> int | None:
        """A weighted sum of two tokens in each channel, or of a gate's two sides."""
        return (1 if self.mixing in ("matrix", "fusion") else 3) * length * width

    def _check_shifts(self, shifts: tuple[int, ...], place: Place) -> None:
        require(len(shifts) > 0, f"{place.where}.shifts must not be empty")
        least = _least_shift(self.causal)
        require(
            least is None or min(shifts) >= least,
            f"{place.where}.shifts must be >= {least} when causal is {str(self.causal).lower()}, got {tuple(shifts)}",
        )
        require(
            place.width % len(shifts) == 0,
            f"{place.where}: width {place.width} does not split into {len(shifts)} equal groups, one per shift",
        )

    def resolved(self, place: Place) -> Self:
        return self if self.shifts is not None else replace(self, shifts=(2**place.index,))

    @property
    def is_causal(self) -> bool:
        return self.causal


def _least_shift(causal: bool) -> int | None:
    """Return the smallest shift that the operators take: a causal mixer needs those that decode."""
    operator = TOKEN_SHIFT_CACHED if causal else TOKEN_SHIFT
    return next(attribute.least for attribute in operator.attributes if attribute.name == "shifts")


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
        self.causal = config.causal
        self.pad = nn.Parameter(torch.zeros(width)) if config.padding == "learned" else None

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.causal or lengths is None:
            outside = self._outside(x, None, None if self.causal else x.shape[1])
        else:
            # A token that reads ahead must find nothing beyond its row's end.
            outside = self._outside(x, None, lengths.reshape(-1, 1, 1))
            valid = absolute_positions(x) < lengths.unsqueeze(1)
            x = torch.where(valid.unsqueeze(-1), x, 0)
        if isinstance(self.mixing, ShiftMixing):
            alpha, beta = self.mixing.channel_weights()
            return self._add_pad(shift_mix(x, alpha, beta, self.shifts), beta, outside)
        return self.mixing(x, self._replace_pad(token_shift(x, self.shifts), outside))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"ring": (B,R,D)}: the last R = max(shifts, 1) + rollback inputs of each row."""
        if not self.causal:
            return super().state_entries(rollback)
        return {"ring": StateEntry((max(*self.shifts, 1) + rollback, self.width), "slots", spare=rollback)}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        if not self.causal:
            return super().forward_cached(x, state, position, lengths)
        outside = self._outside(x, position, None)
        if isinstance(self.mixing, ShiftMixing):
            alpha, beta = self.mixing.channel_weights()
            y, ring = shift_mix_cached(x, alpha, beta, state["ring"], position, lengths, self.shifts)
            return self._add_pad(y, beta, outside), {"ring": ring}
        shifted, ring = token_shift_cached(x, state["ring"], position, lengths, self.shifts)
        return self.mixing(x, self._replace_pad(shifted, outside)), {"ring": ring}

    def _outside(self, x: Tensor, position: Tensor | None, end: Tensor | int | None) -> Tensor | None:
        """Return where u_{t-s} is no token, (1 or B, T, D) bool; None if zeros stand there anyway.

        Args:
            x: (B,T,D).
            position: (B,) int64, tokens of each row that came before; None is none.
            end: tokens of all rows, or of each (B,1,1); None where no shift reads ahead.
        """
        if self.pad is None:
            return None
        repeats = self.width // len(self.shifts)
        shift = torch.tensor([s for s in self.shifts for _ in range(repeats)], device=x.device)
        positions = absolute_positions(x, position).unsqueeze(-1)
        before = positions < shift
        return before if end is None else before | (positions - shift >= end)

    def _replace_pad(self, shifted: Tensor, outside: Tensor | None) -> Tensor:
        if self.pad is None or outside is None:
            return shifted
        return torch.where(outside, self.pad, shifted)

    def _add_pad(self, mixed: Tensor, beta: Tensor, outside: Tensor | None) -> Tensor:
        """Add beta * pad where the operator, which knows zero padding only, added nothing."""
        if self.pad is None or outside is None:
            return mixed
        return torch.where(outside, mixed + beta * self.pad, mixed)


def _written(value: Any) -> Any:
    """Return a field's value as a configuration holds it."""
    return CUSTOM if isinstance(value, nn.Module) else value
