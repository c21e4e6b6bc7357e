"""The situations in which every implementation must give the definition's numbers.

A scenario yields checks; each says what it looked at and how large the worst error was, in units of what is allowed, or
what else was wrong. One that does not apply to an operator yields nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .implementations import FaultError, Implementation, KernelOf, Torch
from .judging import Judge, judge_of, rounded
from .subject import Array, Subject
from .trial import Trial, trial_of, with_rows

_PRIMES = (3, 31, 5, 7, 11, 13, 17)
_LONG = 131
_CHUNKED = 9
# Draws of each call: the error of a few numbers alone is luck.
_DRAWS = 2


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        what: what was looked at.
        worst: the largest error in units of the allowed one.
        problem: what else was wrong; "" is nothing.
    """

    what: str
    worst: float = 0.0
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is allowed and nothing else was wrong."""
        return not self.problem and self.worst <= 1


class Bench:
    """Trials of one operator in one type, with judges that all implementations share."""

    def __init__(self, subject: Subject, dtype: str) -> None:
        self.subject, self.dtype = subject, dtype
        self._judges: dict[str, Judge] = {}

    def judge(self, trial: Trial) -> Judge:
        """Return the judge of a trial, on inputs with NaN where nobody may look."""
        key = str(trial)
        if key not in self._judges:
            rng = np.random.default_rng(len(self._judges))
            draws = [trial.poisoned(trial.inputs(rng)) for _ in range(_DRAWS)]
            self._judges[key] = judge_of(trial, self.dtype, draws)
        return self._judges[key]

    def run(self, implementation: Implementation, trial: Trial, inputs: Mapping[str, Array]) -> list[Array]:
        """Run an implementation on some inputs."""
        return implementation.run(trial.subject.operator, trial.attributes, inputs, self.dtype)

    def clean(self, implementation: Implementation, trial: Trial, inputs: Mapping[str, Array]) -> list[Array]:
        """Run an implementation, and return its outputs with NaN where there is padding."""
        outputs = zip(self.subject.operator.outputs, self.run(implementation, trial, inputs), strict=True)
        return [self.subject.without_padding(port, array, inputs) for port, array in outputs]

    def check(self, what: str, implementation: Implementation, trial: Trial, run: Any = None) -> Check:
        """Hold an implementation to the definition on all draws of a trial."""
        judge = self.judge(trial)
        run = run or implementation.run
        worst = 0.0
        try:
            for draw, inputs in enumerate(judge.inputs):
                outputs = run(trial.subject.operator, trial.attributes, inputs, self.dtype)
                worst = max(worst, self.ratio(implementation, judge, draw, outputs))
        except (FaultError, AssertionError) as fault:
            return Check(what, np.inf, str(fault))
        return Check(what, worst)

    def ratio(self, implementation: Implementation, judge: Judge, draw: int, outputs: Sequence[Array]) -> float:
        """Return the largest error of a draw's outputs in units of the allowed one."""
        allowed = judge.torch_allowed if isinstance(implementation, Torch) else judge.allowed
        return max(error / bar for error, bar in zip(judge.errors(draw, outputs), allowed, strict=True))


Scenario = Callable[[Bench, Implementation], Iterator[Check]]


def shapes(bench: Bench, implementation: Implementation) -> Iterator[Check]:
    """One token, unequal lengths, a long row, and every dimension another prime."""
    subject = bench.subject
    yield bench.check("unequal lengths", implementation, trial_of(subject, 3))
    if not subject.time:
        return
    yield bench.check("T = 1", implementation, trial_of(subject, 2, 1))
    yield bench.check(f"T = {_LONG}", implementation, trial_of(subject, 2, _LONG))
    primes = prime_sizes(subject)
    batch, length = primes.get(subject.batch, 2), primes.get(subject.time, 7)
    yield bench.check("primes", implementation, trial_of(subject, batch, length, **primes))


def prime_sizes(subject: Subject) -> dict[str, int]:
    """Return a prime for each dimension, each another, as far as the rules allow it; the others keep their size."""
    order = [subject.batch, subject.time, *subject.operator.sizes]
    sizes: dict[str, int] = {}
    for name in dict.fromkeys(name for name in order if name):
        prime = next(prime for prime in _PRIMES if prime not in sizes.values())
        wanted = {**sizes, name: prime}
        try:
            complete = subject.sizes(wanted)
        except ValueError:
            continue
        if subject.keeps_rules(complete) and all(complete[key] == size for key, size in wanted.items()):
            sizes = wanted
    return sizes


def empty(bench: Bench, implementation: Implementation) -> Iterator[Check]:
    """Sizes of zero: of the batch, and for kernels of whatever else may be zero."""
    subject = bench.subject
    for name in bench.subject.operator.sizes if isinstance(implementation, KernelOf) else [subject.batch]:
        sizes = {**trial_of(subject).sizes, name: 0}
        spans = [subject.row_range(port, sizes, subject.attributes) for port in subject.operator.inputs if port.rows]
        if not name or any(least > most for least, most in spans) or not subject.keeps_rules(sizes):
            continue
        yield bench.check(f"{name} = 0", implementation, Trial(subject, sizes, subject.attributes))


# ------------------------------------------------------------ states


def chunks(bench: Bench, implementation: Implementation) -> Iterator[Check]:
    """A sequence in single tokens and in chunks is the whole sequence."""
    subject = bench.subject
    if not subject.operator.states or not subject.time:
        return
    trial = with_rows(trial_of(subject, 2, _CHUNKED), **_first_positions(subject))
    judge = bench.judge(trial)
    for size in (1, 4):
        what = "single tokens" if size == 1 else f"chunks of {size}"
        try:
            outputs = _in_chunks(bench, implementation, trial, judge.inputs[0], size)
            yield Check(what, bench.ratio(implementation, judge, 0, outputs))
        except (FaultError, AssertionError) as fault:
            yield Check(what, np.inf, str(fault))


def _first_positions(subject: Subject) -> dict[str, Any]:
    return {port.name: [0, 0] for port in subject.positions}


def _in_chunks(
    bench: Bench, implementation: Implementation, trial: Trial, inputs: Mapping[str, Array], size: int
) -> list[Array]:
    """Run a sequence piece by piece, each on the states that the one before left; return the whole's outputs."""
    subject, operator = trial.subject, trial.subject.operator
    length = trial.sizes[subject.time]
    lengths = inputs[subject.lengths.name] if subject.lengths else np.full(trial.sizes[subject.batch], length)
    given, parts = dict(inputs), []
    for start in range(0, length, size):
        piece = dict(given)
        for port in operator.inputs:
            if subject.time in port.shape:
                index = port.shape.index(subject.time)
                piece[port.name] = np.take(given[port.name], range(start, min(start + size, length)), index)
        if subject.lengths:
            piece[subject.lengths.name] = np.clip(lengths - start, 0, min(size, length - start))
        for port in subject.positions:
            piece[port.name] = inputs[port.name] + np.minimum(lengths, start)
        outputs = dict(zip([p.name for p in operator.outputs], bench.run(implementation, trial, piece), strict=True))
        parts.append(outputs)
        given |= {state.past: outputs[state.present] for state in operator.states}
    return [
        np.concatenate([part[port.name] for part in parts], port.shape.index(subject.time))
        if subject.time in port.shape
        else parts[-1][port.name]
        for port in operator.outputs
    ]


def fork(bench: Bench, implementation: Implementation) -> Iterator[Check]:
    """Two continuations of one state do not know of each other: the first gives the same bits after the second."""
    subject = bench.subject
    if not subject.operator.states:
        return
    trial = trial_of(subject)
    judge = bench.judge(trial)
    states = {state.past: judge.inputs[0][state.past] for state in subject.operator.states}
    other = {**judge.inputs[1], **states}
    try:
        first = bench.clean(implementation, trial, judge.inputs[0])
        bench.run(implementation, trial, other)
        again = [bench.clean(implementation, trial, judge.inputs[0]) for _ in range(2)]
    except FaultError as fault:
        yield Check("fork", np.inf, str(fault))
        return
    same = all(_same(first, outputs) for outputs in again)
    yield Check("fork", problem="" if same else "other bits after another continuation of the state")


def roll_back(bench: Bench, implementation: Implementation) -> Iterator[Check]:
    """A token that is taken back by its position leaves nothing behind; states that are sums need a copy (fork)."""
    subject = bench.subject
    if not subject.positions or not subject.time:
        return
    before = with_rows(trial_of(subject, 2, 5), **{port.name: [0, 0] for port in subject.positions}, **_all(subject, 5))
    inputs = bench.judge(before).inputs[0]
    operator = subject.operator
    names = [port.name for port in operator.outputs]
    after = with_rows(trial_of(subject, 2, 3), **{port.name: [4, 4] for port in subject.positions}, **_all(subject, 3))
    fresh = rounded(subject, after.inputs(np.random.default_rng(7)), bench.dtype)
    shorter = {key: _first(subject, key, value, 4) for key, value in inputs.items()} | _arrays(_all(subject, 4))
    try:
        truth = dict(zip(names, subject.truth(shorter, before.attributes), strict=True))
        found = dict(zip(names, bench.run(implementation, before, inputs), strict=True))
        right = fresh | {state.past: truth[state.present] for state in operator.states}
        taken_back = fresh | {state.past: found[state.present] for state in operator.states}
        judge = judge_of(after, bench.dtype, [right])
        outputs = bench.run(implementation, after, taken_back)
    except FaultError as fault:
        yield Check("roll-back", np.inf, str(fault))
        return
    presents = {state.present for state in operator.states}
    pairs = zip(names, outputs, judge.truths[0], strict=True)
    results = [truth_of if name in presents else output for name, output, truth_of in pairs]
    yield Check("roll-back", bench.ratio(implementation, judge, 0, results))


def _all(subject: Subject, length: int) -> dict[str, Any]:
    return {subject.lengths.name: [length, length]} if subject.lengths else {}


def _arrays(rows: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(values) for name, values in rows.items()}


def _first(subject: Subject, name: str, array: Array, count: int) -> Array:
    shape = subject.operator.port(name).shape
    return np.take(array, range(count), shape.index(subject.time)) if subject.time in shape else array


def in_place(bench: Bench, implementation: Implementation) -> Iterator[Check]:
    """States may be one buffer before and after the call."""
    subject = bench.subject
    if not isinstance(implementation, KernelOf) or not subject.operator.in_place:
        return
    for length in (1, _CHUNKED):
        trial = trial_of(subject, 3, length)
        yield bench.check(f"in place, T = {length}", implementation, trial, implementation.run_in_place)


def threads(bench: Bench, implementation: Implementation) -> Iterator[Check]:
    """Any number of threads gives the same bits."""
    if not isinstance(implementation, KernelOf) or not implementation.parallel or not bench.subject.time:
        return
    import torch

    trial = trial_of(bench.subject, 3, 700)
    inputs = rounded(bench.subject, trial.inputs(np.random.default_rng(1)), bench.dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(bench.clean(implementation, trial, inputs))
    except FaultError as fault:
        yield Check("threads", np.inf, str(fault))
        return
    finally:
        torch.set_num_threads(before)
    same = all(_same(results[0], run) for run in results[1:])
    yield Check("threads", problem="" if same else "other bits with another number of threads")


def _same(one: Sequence[Array], other: Sequence[Array]) -> bool:
    return all(np.array_equal(left, right, equal_nan=True) for left, right in zip(one, other, strict=True))


SCENARIOS: tuple[Scenario, ...] = (shapes, empty, chunks, fork, roll_back, in_place, threads)
