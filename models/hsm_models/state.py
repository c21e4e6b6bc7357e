"""What a module carries from call to call while it decodes: the tensors of its state, described by three properties.

Which property a tensor has decides what a host may do with it, in every language:

- whether it grows: a size of None is the capacity, the tokens that a row may reach;
- how tokens are taken back;
- whether it has the type of the weights and activations, or that of sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from hsm_operators.precision import accumulator

State = dict[str, Tensor]
Rollback = Literal["position", "slots", "snapshot"]
StateType = Literal["model", "accumulator", "int64"]


@dataclass(frozen=True)
class StateEntry:
    """One tensor of a state, as it is for one row. It is zero before the first token.

    Attributes:
        shape: sizes without the batch; one of them may be None, the capacity in tokens.
        rollback: how tokens are taken back: "position" (moving the position back suffices), "slots" (the same, for as
            many tokens as there are spare slots), or "snapshot" (only a copy taken before helps, as with sums). In the
            first two, what lies in the slot of a token that does not exist must not matter, as long as it is finite.
        spare: slots beyond those that are read, for "slots"; the slots are the first size of `shape`.
        type: "model" is the type of the weights and activations, "accumulator" float32 at least, or "int64".

    Raises:
        ValueError: values that contradict each other.
    """

    shape: tuple[int | None, ...]
    rollback: Rollback = "snapshot"
    spare: int = 0
    type: StateType = "model"

    def __post_init__(self) -> None:
        if self.shape.count(None) > 1 or any(size is not None and size < 1 for size in self.shape):
            raise ValueError(f"a state's sizes must be at least 1, and one of them may be None, got {self.shape}")
        for value, words in ((self.rollback, get_args(Rollback)), (self.type, get_args(StateType))):
            if value not in words:
                raise ValueError(f"{value!r} must be one of {', '.join(words)}")
        slots = self.shape[0] if self.shape else None
        if self.rollback == "slots" and (slots is None or not 0 <= self.spare < slots):
            raise ValueError(f"a state of shape {self.shape} cannot have {self.spare} spare slots")
        if self.rollback != "slots" and self.spare:
            raise ValueError(f"a state with the rollback {self.rollback!r} has no spare slots")

    def dtype(self, model: torch.dtype) -> torch.dtype:
        """Return the tensor's dtype in a model of dtype `model`."""
        if self.type == "int64":
            return torch.int64
        return accumulator(model) if self.type == "accumulator" else model


def initial_state(
    entries: Mapping[str, StateEntry], batch: int, capacity: int, dtype: torch.dtype, device: torch.device
) -> State:
    """Return the state before the first token: zeros.

    Args:
        entries: what the state consists of.
        batch: rows B.
        capacity: tokens that a row may reach.
        dtype: that of the weights.
        device: where it lies.
    """
    return {
        key: torch.zeros(
            (batch, *(capacity if size is None else size for size in entry.shape)),
            dtype=entry.dtype(dtype),
            device=device,
        )
        for key, entry in entries.items()
    }
