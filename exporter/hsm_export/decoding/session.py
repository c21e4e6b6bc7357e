"""Decode sessions: a batch of sequences that advance together, each from its own position, in any CPU runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError
from ..formats.state_spec import Array, State, StateSpec
from .opening import open_stepper

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Snapshot:
    """The states of a batch at one moment; nothing that a session does later changes it.

    Attributes:
        positions: (B,) int64, tokens that each row has read.
        furthest: (B,) int64, the furthest position that each row ever reached.
        state: `past` name -> array, its first dimension B.
    """

    positions: Array
    furthest: Array
    state: State


class DecodeSession:
    """A batch of sequences with their states. One session serves one thread.

    Args:
        model: an ONNX file exported with `decode=True`, a bundle's folder, a checkpoint, `zoo:NAME`, a language model
            of your own or `FILE.py:FACTORY` that makes one.
        runtime: "ort-fused" (default for files where the kernels are there), "ort", "onnx-reference",
            "cuda-emulated", "torch" (default for all but files) or "torch64"; what is no file is exported to a
            temporary one for a runtime of ONNX files.
        batch: rows B; `reset` can change it.
        capacity: tokens that a row must be able to reach. States that grow get as much room, unless the file fixes
            it, which must then suffice; states that do not grow need none.
        rollback: tokens that `rollback` must be able to take back, for all but files, whose spare slots are fixed.

    Raises:
        UsageError: a runtime that cannot run this model, or sizes that do not fit it.
        BadInputError: the file is missing, damaged, or has no state.
        MissingDependencyError: the runtime is not installed.
    """

    runtime: str
    _positions: Array
    _furthest: Array
    _state: State

    def __init__(
        self,
        model: str | Path | nn.Module,
        runtime: str | None = None,
        *,
        batch: int = 1,
        capacity: int | None = None,
        rollback: int = 0,
    ) -> None:
        self.runtime, self._stepper = open_stepper(model, runtime, rollback)
        self._slots: int | None = None
        self.reset(batch, capacity)

    @property
    def spec(self) -> StateSpec:
        """The states' names, shapes and types."""
        return self._stepper.spec

    @property
    def vocab_size(self) -> int:
        """Token ids V of the model."""
        return self._stepper.vocab_size

    @property
    def last_only(self) -> bool:
        """Whether the file returns the logits of each row's last token only."""
        return self._stepper.spec.last_logits

    @property
    def capacity(self) -> int | None:
        """Tokens that a row may reach; None where nothing limits it."""
        return self.spec.longest(self._slots)

    @property
    def batch(self) -> int:
        """Rows B."""
        return len(self._positions)

    @property
    def positions(self) -> Array:
        """Tokens that each row has read, (B,) int64; a copy."""
        positions: Array = self._positions.copy()
        return positions

    @property
    def state_bytes(self) -> int:
        """Size of the states of all rows."""
        return sum(array.nbytes for array in self._state.values())

    def step(self, tokens: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Feed the next tokens of each row: one token, a chunk or a whole prompt are the same call.

        Args:
            tokens: (B,T) integers 0..V-1, right-padded, T >= 1.
            lengths: (B,) integers, valid tokens of each row, 0..T; a row of 0 stands still. None means T.

        Returns:
            Logits (B,T,V) float32 (float64 for "torch64"), unspecified beyond `lengths`; (B,1,V), those of each row's
            last valid token, when `last_only`.

        Raises:
            UsageError: wrong shapes or values, or a row that would outgrow the capacity. Nothing has been run then.
            HsmExportError: the runtime failed; reset the session before it is used again.
        """
        given = np.asarray(tokens)
        if given.dtype.kind not in "iu" or given.ndim != 2 or len(given) != self.batch or given.shape[1] < 1:
            raise UsageError(
                f"tokens must be integers ({self.batch},T) with T >= 1, got {given.dtype} of shape {given.shape}"
            )
        ids = np.array(given, np.int64, order="C")
        counts = np.full(self.batch, ids.shape[1], np.int64) if lengths is None else np.array(lengths, np.int64)
        if counts.shape != (self.batch,) or counts.min() < 0 or counts.max() > ids.shape[1]:
            raise UsageError(f"lengths must be {self.batch} numbers from 0 to {ids.shape[1]}, got {counts.tolist()}")
        self._check_ids(ids, counts)
        reached = self._positions + counts
        check_room(self.capacity, int(reached.max()))
        logits, self._state = self._stepper.run(ids, self._positions, counts, self._state)
        self._positions = reached
        self._furthest = np.maximum(self._furthest, reached)
        return logits

    def last_logits(self, tokens: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Feed tokens as `step` does; return the logits (B,V) of each row's last valid token.

        A row of length 0 has read nothing, so it has NaN.
        """
        logits = self.step(tokens, lengths)
        if lengths is None:
            return np.array(logits[:, -1])
        counts = np.asarray(lengths, np.int64)
        last = logits[np.arange(self.batch), 0 if self.last_only else np.maximum(counts - 1, 0)]
        last[counts == 0] = np.nan
        return np.array(last)

    def reset(self, batch: int | None = None, capacity: int | None = None) -> None:
        """Start all rows anew, with another number of rows or another capacity if one is given.

        Raises:
            UsageError: fewer than one row, a capacity that neither the file nor the session fixes, or more than the
                file fixes.
        """
        rows = self.batch if batch is None else batch
        if capacity is not None:
            self._slots = capacity if self.spec.needs_capacity else None
            check_room(self.capacity, capacity)
        self._state = self.spec.allocate(rows, self._slots)
        self._positions = np.zeros(rows, np.int64)
        self._furthest = np.zeros(rows, np.int64)

    def reset_rows(self, rows: Sequence[int]) -> None:
        """Start some rows anew and leave the others where they are.

        Raises:
            UsageError: a row that is not there.
        """
        self._check_rows(rows)
        chosen = list(rows)
        self.spec.reset(self._state, chosen)
        self._positions[chosen] = 0
        self._furthest[chosen] = 0

    def rollback(self, tokens: ArrayLike) -> None:
        """Take back the last tokens of each row, as if they had never been read.

        Args:
            tokens: (B,) tokens to take back, or one number for all rows.

        Raises:
            UsageError: more than were read, or than there are spare slots for, or a state that only a snapshot brings
                back.
        """
        self._positions = self.spec.rolled_back(self._positions, tokens, self._furthest)

    def can_roll_back(self, tokens: int) -> bool:
        """Whether so many tokens that are read from now on could be taken back."""
        probe = self._positions + tokens
        try:
            self.spec.rolled_back(probe, tokens, np.maximum(self._furthest, probe))
        except UsageError:
            return False
        return True

    def snapshot(self) -> Snapshot:
        """Return a copy of all states."""
        state = {name: array.copy() for name, array in self._state.items()}
        return Snapshot(self._positions.copy(), self._furthest.copy(), state)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this model, taking over its number of rows; the snapshot stays as it is.

        Raises:
            UsageError: it is of a model with other states, or its rows do not fit the capacity.
        """
        self._take_over(snapshot.state, snapshot.positions)
        self._furthest = snapshot.furthest.copy()

    def save(self, path: str | Path) -> None:
        """Write all states and positions to a .safetensors file.

        Raises:
            BadInputError: the file cannot be written.
        """
        self.spec.save(path, self._state, self._positions)

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote, taking over its number of rows.

        Raises:
            BadInputError: the file is missing or damaged, or of another model.
            UsageError: its rows do not fit the capacity.
        """
        self._take_over(*self.spec.load(path))
        # The file does not say how far its rows had got before, so only tokens read from now on can be taken back.
        self._furthest = self._positions + self.spec.rollback

    def fork(self, rows: Sequence[int] | None = None) -> DecodeSession:
        """Return another session of the same model that starts from copies of these rows (None: all).

        A row may be named several times, to continue one prompt in several ways.

        Raises:
            UsageError: a row that is not there.
        """
        chosen = list(range(self.batch)) if rows is None else list(rows)
        self._check_rows(chosen)
        other = object.__new__(DecodeSession)
        other.runtime, other._stepper, other._slots = self.runtime, self._stepper, self._slots
        other._positions, other._furthest = self._positions[chosen], self._furthest[chosen]
        other._state = self.spec.snapshot(self._state, chosen)
        return other

    def _take_over(self, state: State, positions: Array) -> None:
        """Copy a state into fresh buffers of this session's own capacity."""
        check_room(self.capacity, int(positions.max()))
        fresh = self.spec.allocate(len(positions), self._slots)
        problem = UsageError("the states are those of another model", "use the model that they were saved from")
        for tensor in self.spec.tensors:
            source, array = state.get(tensor.past), fresh[tensor.past]
            if source is None or source.dtype != array.dtype or source.ndim != array.ndim:
                raise problem
            kept = tuple(
                slice(min(sizes) if axis == tensor.capacity_axis else None)
                for axis, sizes in enumerate(zip(source.shape, array.shape, strict=True))
            )
            if source[kept].shape != array[kept].shape:
                raise problem
            array[kept] = source[kept]
        self._state, self._positions = fresh, positions.copy()

    def _check_rows(self, rows: Sequence[int]) -> None:
        if not rows or not all(0 <= row < self.batch for row in rows):
            raise UsageError(f"rows must be from 0 to {self.batch - 1}, got {list(rows)}")

    def _check_ids(self, ids: Array, lengths: Array) -> None:
        valid = np.arange(ids.shape[1]) < lengths[:, None]
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            wrong = ids[valid & ((ids < 0) | (ids >= self.vocab_size))]
            if wrong.size:
                raise UsageError(f"token id {wrong[0]} is not in 0..{self.vocab_size - 1}")
            ids[~valid] = 0


def check_room(capacity: int | None, tokens: int) -> None:
    """Refuse a row of more tokens than a state holds.

    Raises:
        UsageError: `tokens` exceed `capacity`; a capacity of None has no limit.
    """
    if capacity is not None and tokens > capacity:
        raise UsageError(
            f"a sequence would reach {tokens} tokens, but the state holds {capacity}",
            "shorten it, or give the model more room: export it with a larger --capacity",
        )
