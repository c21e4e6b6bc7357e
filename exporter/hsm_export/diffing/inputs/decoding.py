"""Single calls of a decoding file: at the start, amid sequences, and with more tokens than a state has slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...validation.cases import Case, Shape, pairs

if TYPE_CHECKING:
    from ...formats.state_spec import StateSpec
    from ...onnx_model.model_file import ModelFile

Array = NDArray[Any]

_BATCH = 3
_SHORTEST, _MOST_TOKENS = 12, 160


def decoding_cases(
    file: ModelFile,
    call: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    shapes: Sequence[Shape] | None = None,
) -> list[Case]:
    """Return calls that follow each other: several tokens from the start, several more, and a single one.

    Rows are of different length; in the last call one stands still. Each call has more tokens than any state
    has slots, where the model and the time allow it.

    Args:
        file: the file.
        call: makes a call in the runtime whose numbers count as right; its state is what the next one gets.
        shapes: (batch, length) of the first call, and of the second one of each sequence; None chooses them.

    Raises:
        UsageError: sizes below 1, or two such calls are more than a row may reach.
    """
    state = file.state()
    longest = state.longest()
    rng = np.random.default_rng(0)
    cases = []
    for batch, length in pairs(shapes, "a decoding file") or ((_BATCH, _length(state, longest)),):
        if batch < 1 or length < 1:
            raise UsageError(f"batch and length must be at least 1, got {batch}×{length}")
        if longest and length > longest:
            raise UsageError(f"a length is beyond the {longest} tokens that a row may reach", "give shorter ones")
        cases += _sequence(file, state, call, rng, batch, length)
    return cases


def first_call(file: ModelFile, tokens: Array, lengths: Array, capacity: int = 0) -> dict[str, Array]:
    """Return the inputs of a call whose state is that before the first token.

    Args:
        file: the file.
        tokens: (B,T).
        lengths: (B,) valid tokens of each row.
        capacity: tokens that the state shall hold beyond T, where the file leaves that open.
    """
    from ...validation.stepping import empty_state

    batch, length = tokens.shape
    state = empty_state(file.state(), batch, length + capacity)
    return {"tokens": tokens.astype(np.int64), "position": np.zeros(batch, np.int64), "lengths": lengths, **state}


def _length(state: StateSpec, longest: int | None) -> int:
    """Return the tokens of a call: more than any state has slots, and so few that three calls fit."""
    wanted = min(max(_SHORTEST, state.most_slots + 3), _MOST_TOKENS)
    return wanted if longest is None else max(1, min(wanted, (longest - 1) // 2))


def _sequence(
    file: ModelFile,
    state: StateSpec,
    call: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    rng: np.random.Generator,
    batch: int,
    length: int,
) -> list[Case]:
    longest = state.longest()
    second = length if longest is None else min(length, longest - length)
    single = int(longest is None or longest > length + second)
    room = second + single
    feed = first_call(file, _tokens(file, rng, batch, length), _lengths(rng, batch, length), room)
    cases = [Case(f"first call {batch}×{length}", feed)]
    if second:
        feed = _next_call(state, feed, call(feed), _tokens(file, rng, batch, second), _lengths(rng, batch, second))
        cases.append(Case(f"second call {batch}×{second}, from token {length}", feed))
    if second and single:
        moving = np.ones(batch, np.int64)
        moving[1:2] = 0
        feed = _next_call(state, feed, call(feed), _tokens(file, rng, batch, 1), moving)
        cases.append(Case(f"one token {batch}×1, from token {length + second}", feed))
    return cases


def _next_call(
    state: StateSpec, before: Mapping[str, Array], outputs: Mapping[str, Array], tokens: Array, lengths: Array
) -> dict[str, Array]:
    """Return the inputs of the call after another: what each tensor held, in its own type."""
    carried = {}
    for tensor in state.tensors:
        array = np.asarray(outputs[tensor.present]).astype(tensor.numpy_dtype)
        carried[tensor.past] = array.astype(np.float32) if array.dtype.kind == "V" else array
    position = before["position"] + before["lengths"]
    return {"tokens": tokens, "position": position, "lengths": lengths, **carried}


def _tokens(file: ModelFile, rng: np.random.Generator, batch: int, length: int) -> Array:
    spec = next(spec for spec in file.inputs if spec.name == "tokens")
    return rng.integers(spec.drawn[0], spec.drawn[1] + 1, (batch, length)).astype(np.int64)


def _lengths(rng: np.random.Generator, batch: int, length: int) -> Array:
    """Return the valid tokens of each row: all of the first one's, as many or fewer of the others."""
    return np.array([length, *rng.integers(1, length + 1, batch - 1)], np.int64)
