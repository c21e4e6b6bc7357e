"""What must be exact in decoding, to the bit: rows that stand still, forks, and taking tokens back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.state_spec import State, StateSpec
from ..runtimes.runtime import RunContext, Runtime
from .running import quiet
from .stepping import SteppingRunner, calls, empty_state

Array = NDArray[Any]

_PREFIX, _STEP, _MOST_BACK = 5, 2, 3


def check_exactness(
    runtime: Runtime, context: RunContext, state: StateSpec, vocab_size: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Decode a few tokens in two rows and change one of them.

    Args:
        runtime: a runtime from `stepping`.
        context: what it runs.
        state: the file's state.
        vocab_size: token ids V.

    Returns:
        What is exact, and a sentence for each thing that is not.
    """
    rng = np.random.default_rng(0)
    room = state.longest() or _PREFIX + _STEP + _MOST_BACK
    prefix = max(1, min(_PREFIX, room - _STEP))
    step = max(1, min(_STEP, room - prefix))
    if prefix + step > room:
        return (), ()
    ids = rng.integers(0, vocab_size, (3, 2, prefix + step + _MOST_BACK)).astype(np.int64)
    with quiet():
        runner: SteppingRunner = runtime.runner(context)
        with runner:
            most_back = min(_MOST_BACK, room - prefix)
            trial = _Trial(runner, state, ids, prefix, step, most_back, routed=bool(context.routed))
            outcomes = {"rows of length 0": trial.idle(), "forks": trial.fork(), "rollback": trial.rollback()}
    exact = tuple(what for what, same in outcomes.items() if same)
    return exact, tuple(f"{what} are not exact to the bit" for what, same in outcomes.items() if same is False)


class _Trial:
    """Two rows after a prefix, and what happens to them in copies."""

    def __init__(
        self,
        runner: SteppingRunner,
        state: StateSpec,
        ids: Array,
        prefix: int,
        step: int,
        most_back: int,
        *,
        routed: bool,
    ) -> None:
        self._runner = runner
        self._spec = state
        self._ids = ids
        self._prefix = prefix
        self._step = step
        self._most_back = most_back
        self._routed = routed
        empty = empty_state(state, 2, ids.shape[2])
        _, self._state = self._call(empty, ids[0, :, :prefix], [prefix, prefix], 0)
        self._logits, _ = self._call(self._copy(), ids[1, :, :step], [step, step], prefix)

    def idle(self) -> bool:
        """Let row 0 stand still while row 1 goes on."""
        _, after = self._call(self._copy(), self._ids[1, :, : self._step], [0, self._step], self._prefix)
        return all(_same(after[name][0], array[0]) for name, array in self._state.items())

    def fork(self) -> bool:
        """Overwrite row 0 by row 1: row 1 must not notice, and the same must follow each time.

        Experts may notice: the tokens that they multiply come from all rows, and their number may change the rounding.
        """
        state = self._copy()
        self._spec.fork(state, 1, 0)
        tokens = np.stack([self._ids[1, 1]] * 2)[:, : self._step]
        logits, after = self._call(state, tokens, [self._step] * 2, self._prefix)
        _, again = self._call(state, tokens, [self._step] * 2, self._prefix)
        repeated = all(_same(after[name], again[name]) for name in after)
        return repeated and (self._routed or _same(logits[1], self._logits[1]))

    def rollback(self) -> bool | None:
        """Read wrong tokens, go back and read a single right one, which leaves traces; None if it takes a snapshot."""
        spare = [tensor.spare for tensor in self._spec.tensors if tensor.rollback == "slots"]
        back = min([self._most_back, *spare])
        if back < 1 or any(tensor.rollback == "snapshot" for tensor in self._spec.tensors):
            return None
        _, state = self._call(self._copy(), self._ids[2, :, :back], [back, back], self._prefix)
        self._spec.rolled_back([self._prefix + back] * 2, back)
        right = self._ids[1, :, :1]
        logits, _ = self._call(state, right, [1, 1], self._prefix)
        expected, _ = self._call(self._copy(), right, [1, 1], self._prefix)
        return _same(logits, expected)

    def _call(self, state: State, tokens: Array, lengths: list[int], position: int) -> tuple[Array, State]:
        call = next(calls(tokens, np.array([lengths], np.int64)))
        call.position[:] = position
        outputs, state = self._runner.call(call, state)
        return outputs["logits"], state

    def _copy(self) -> State:
        return {name: array.copy() for name, array in self._state.items()}


def _same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b))
