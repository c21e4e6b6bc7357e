"""What every mixer offers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hsm_operators.precision import accumulator

from ..errors import require
from ..parts import MixerConfig, Place

State = dict[str, Tensor]


@dataclass(frozen=True)
class StateEntry:
    """One tensor of a mixer's state, as it is for one row.

    Attributes:
        kind: "ring", the last tokens, that of absolute position p in slot p mod R; "cache", all tokens, that of
            position p in slot p; or "taylor", sums over all tokens.
        shape: sizes without the batch; None is the capacity, in tokens.
        spare: slots of a ring beyond those that the mixer reads: so many tokens can be taken back.
    """

    kind: Literal["ring", "cache", "taylor"]
    shape: tuple[int | None, ...]
    spare: int = 0

    def dtype(self, model: torch.dtype) -> torch.dtype:
        """Return the tensor's dtype in a model of dtype `model`: sums are float32 at least."""
        return accumulator(model) if self.kind == "taylor" else model


class Mixer(nn.Module):
    """Base of all mixers: (B,T,D) -> (B,T,D).

    Attributes:
        causal: token t sees tokens <= t only, so that the mixer can decode.
    """

    causal: bool = True

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None, position: Tensor | None = None
    ) -> Any:
        """Call `mix`, or with a state `forward_cached`: as a call of the module, which hooks and tracers see."""
        if state is None:
            return self.mix(x, lengths)
        return self.forward_cached(x, state, position, lengths)  # type: ignore[arg-type]

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mix whole sequences.

        Args:
            x: (B,T,D).
            lengths: (B,) int64, valid tokens per row (right padding); None means all. Outputs beyond are unspecified,
                so causal mixers ignore it.

        Returns:
            (B,T,D), of x's dtype.
        """
        raise TypeError(f"{type(self).__name__} does not define mix")

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe the state: key -> tensor.

        Args:
            rollback: tokens that a row may take back; rings get as many spare slots.

        Raises:
            TypeError: the mixer is not causal.
        """
        raise TypeError(f"{type(self).__name__} is not causal: it cannot decode token by token")

    def initial_state(self, batch: int, capacity: int, rollback: int = 0) -> State:
        """Return the state before the first token: zeros, in the dtype and on the device of the parameters.

        Args:
            batch: rows B.
            capacity: tokens that a row may reach; only key/value caches grow with it.
            rollback: tokens that a row may take back.

        Raises:
            TypeError: the mixer is not causal.
        """
        like = next(self.parameters(), torch.empty(0))
        return {
            key: torch.zeros(
                (batch, *(capacity if size is None else size for size in entry.shape)),
                dtype=entry.dtype(like.dtype),
                device=like.device,
            )
            for key, entry in self.state_entries(rollback).items()
        }

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Mix the next tokens of each row, given what came before.

        Args:
            x: (B,T,D), the new tokens, any T >= 1.
            state: from `initial_state` or an earlier call; it is not changed.
            position: (B,) int64, tokens of each row that came before this call.
            lengths: (B,) int64, valid new tokens of each row, 0..T; 0 leaves the row's state as it was.

        Returns:
            The output (B,T,D), unspecified beyond `lengths`, and the state after the call.

        Raises:
            TypeError: the mixer is not causal.
            ValueError: the tokens do not fit into a key/value state.
        """
        raise TypeError(f"{type(self).__name__} is not causal: it cannot decode token by token")


@dataclass(frozen=True)
class HeadsConfig(MixerConfig):
    """What the configurations of all mixers with heads have in common.

    Attributes:
        heads: number of heads H.
        head_dim: width of a head; None means width / heads.
    """

    heads: int = 4
    head_dim: int | None = None

    def check(self, place: Place) -> None:
        super().check(place)
        require(self.heads > 0, f"{place.where}.heads must be positive, got {self.heads}")
        require(
            self.head_dim is not None or place.width % self.heads == 0,
            f"{place.where}: width {place.width} is not a multiple of heads {self.heads}; give head_dim",
        )
        require(
            self.head_dim is None or self.head_dim > 0, f"{place.where}.head_dim must be positive, got {self.head_dim}"
        )

    def resolved(self, place: Place) -> Self:
        return replace(self, head_dim=self.head_width(place.width))

    def head_width(self, width: int) -> int:
        """Return the width of a head in a model of this width."""
        return width // self.heads if self.head_dim is None else self.head_dim
