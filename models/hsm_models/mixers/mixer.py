"""What every mixer offers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..state import State, StateEntry, initial_state


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


def resolve_head_dim(width: int, heads: int, head_dim: int | None) -> int:
    """Return the head width, by default width / heads.

    Raises:
        ValueError: the width does not split into that many heads.
    """
    if heads < 1 or (head_dim is None and width % heads):
        raise ValueError(f"width {width} does not split into {heads} heads; give head_dim")
    return width // heads if head_dim is None else head_dim
