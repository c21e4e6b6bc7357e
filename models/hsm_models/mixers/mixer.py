"""What every mixer offers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..decoding import StatefulModule, is_decoding
from ..errors import require
from ..parts import MixerConfig, Place
from ..state import State, StateEntry, initial_state

if TYPE_CHECKING:
    from typing_extensions import Self

Shared = dict[str, Tensor]  # what a call's earlier layers have left for later ones, by a name of the mixer's


class Mixer(StatefulModule):
    """Base of all mixers: (B,T,D) -> (B,T,D).

    Attributes:
        causal: token t sees tokens <= t only, so that the mixer can decode.
    """

    causal: bool = True

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: State | None = None,
        position: Tensor | None = None,
    ) -> Any:
        """Call `mix`, or with a state `forward_cached`: as a call of the module, which hooks and tracers see.

        In a model of which only the modules know that it decodes, the state comes from there; see `StatefulModule`.
        A mixer whose configuration `takes` or `leaves` something has a further argument `shared`.
        """
        if state is not None:
            return self.forward_cached(x, state, position, lengths)  # type: ignore[arg-type]
        return super().forward(x) if is_decoding() else self.mix(x, lengths)

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Call `forward_cached`."""
        return self.forward_cached(x, state, position, lengths)

    def whole(self, x: Tensor) -> Tensor:
        """Call `mix`."""
        return self.mix(x)

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
            rollback: tokens that a row may take back; states of slots get as many spare ones.

        Raises:
            TypeError: the mixer is not causal.
        """
        raise TypeError(f"{type(self).__name__} is not causal: it cannot decode token by token")

    def initial_state(self, batch: int, capacity: int, rollback: int = 0) -> State:
        """Return the state before the first token: zeros, in the dtype and on the device of the parameters.

        Args:
            batch: rows B.
            capacity: tokens that a row may reach; only states that grow need memory for them.
            rollback: tokens that a row may take back.

        Raises:
            TypeError: the mixer is not causal.
        """
        like = next(self.parameters(), torch.empty(0))
        return initial_state(self.state_entries(rollback), batch, capacity, like.dtype, like.device)

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
