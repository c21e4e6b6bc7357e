"""The sequences that a decoding file is validated with, and how they are cut into calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..formats.state_spec import StateSpec
from ..onnx_model.model_file import ModelFile
from .cases import Case, Shape, pairs

STEPS = 64
STEPS_CASE = "single steps"
_SHORTEST, _LONGEST = 24, 200

Array = NDArray[Any]


def sequence_cases(
    file: ModelFile, state: StateSpec, shapes: Sequence[Shape] | None, steps: int
) -> tuple[list[Case], list[str]]:
    """Return the cases of a decoding file, and notes on what was left out.

    One call of everything; rows of different length in random chunks, some of them standing still; tokens one by one.
    Sequences have more tokens than any state has slots where the model allows it, so that all slots are written twice.

    Args:
        file: the model.
        state: its state.
        shapes: (batch, length) of the randomly cut cases; None chooses them.
        steps: single steps of the last case.

    Raises:
        UsageError: sizes below 1 or beyond what a row may reach.
    """
    longest = state.longest()
    shapes = pairs(shapes, "a decoding file")
    for batch, length in (*(shapes or ()), (1, steps)):
        if batch < 1 or length < 1:
            raise UsageError(f"batch, length and steps must be at least 1, got {batch}×{length}")
    if longest and any(length > longest for _, length in shapes or ()):
        raise UsageError(f"a length is beyond the {longest} tokens that a row may reach", "give shorter ones")
    rng = np.random.default_rng(0)
    slots = state.most_slots
    wanted = max(_SHORTEST, 2 * slots + 3)
    length = min(wanted, _LONGEST, longest or wanted)
    notes = (
        [] if length >= min(wanted, longest or wanted) else [f"not all of a state's {slots} slots are written twice"]
    )
    cases = [
        _case(file, rng, "one call", (3, length), lambda lengths: lengths[None]),
        *(
            _case(
                file, rng, f"random chunks {batch}×{size}", (batch, size), lambda lengths: random_chunks(rng, lengths)
            )
            for batch, size in shapes or ((3, length), (2, length))
        ),
        _case(
            file, rng, STEPS_CASE, (1, min(steps, longest or steps)), lambda lengths: np.ones((lengths[0], 1), np.int64)
        ),
    ]
    return cases, notes


def random_chunks(rng: np.random.Generator, lengths: Array) -> Array:
    """Return how many tokens each row takes in each call, (N,B): single tokens, long pieces, rows that stand still."""
    left, chunks = lengths.copy(), []
    while (left > 0).any():
        most = rng.choice([1, 3, max(1, int(lengths.max()) // 4)])
        take = np.minimum(rng.integers(0, most + 1, len(lengths)), left)
        if take.any():
            chunks.append(take)
            left = left - take
    return np.stack(chunks)


def _case(file: ModelFile, rng: np.random.Generator, name: str, shape: tuple[int, int], cut: Any) -> Case:
    """Make a case: the first row is full, the others are shorter."""
    batch, length = shape
    tokens = next(spec for spec in file.inputs if spec.name == "tokens")
    ids = rng.integers(tokens.drawn[0], tokens.drawn[1] + 1, shape).astype(np.int64)
    lengths = np.array([length, *rng.integers(1, length + 1, batch - 1)], np.int64)
    return Case(name, {"tokens": ids, "lengths": lengths, "chunks": cut(lengths)})
