"""Decoding files that others wrote: a sequence in one call, in pieces, token by token and after a fork is the same.

The file's own maths in float64 is held to this first: where it departs from itself, the state and the node at which it
does are named. Then every runtime reads in pieces, and is held to the file.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..errors import LimitError, first_line
from ..onnx_model.model_file import ModelFile
from ..runtimes import get
from ..runtimes.runtime import RunContext, Runtime
from .cases import Case
from .foreign_fault import constant_state, first_departure
from .foreign_state import LENGTH, Reading, departs, found_pairs, named_pairs, readings, sequence_input, tail
from .planning import Plan
from .results import Comparison, ValidationResult
from .running import quiet, taken
from .validation import Validation

Array = NDArray[Any]
Call = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Progress = Callable[[str], None]

# Ways to call a file that are tried.
_MOST_READINGS = 128
_CHUNKS = {
    "in one call": (LENGTH,),
    "in two pieces": (4, LENGTH - 4),
    "token by token": (1,) * LENGTH,
    "as a prompt and single tokens": (LENGTH - 3, 1, 1, 1),
    "in unequal pieces": (2, 1, LENGTH - 3),
}
_PREFIX = 4


@dataclass(frozen=True)
class Decoding:
    """What was found of a file's state: why it is wrong, what to know of it, and how to call it, where it has one."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reading: Reading | None = None


def examine(file: ModelFile, context: RunContext, named: Sequence[tuple[str, str]], progress: Progress) -> Decoding:
    """Find a file's state and hold its maths in float64 to itself.

    Args:
        file: the file, which nobody of ours wrote.
        context: its context.
        named: the pairs that the user names; without any they are looked for.
        progress: receives the phase.
    """
    pairs = named_pairs(file, named) if named else found_pairs(file)
    if not pairs:
        return Decoding()
    progress("looking at its state")
    if constant := constant_state(file.model, pairs):
        return Decoding((f"the file itself: {constant}",))
    sequence = sequence_input(file, pairs)
    count = f"{len(pairs)} states" if len(pairs) > 1 else "a state"
    listed = f"{count}: {pairs[0].text}" + (f" and {len(pairs) - 1} more" if len(pairs) > 1 else "")
    if sequence is None or not isinstance(sequence.shape[1], str):
        return Decoding(notes=(f"{listed}; not checked: it does not read pieces of several lengths",))
    with quiet(), get("onnx64").runner(replace(context, rounding=0)) as runner:

        def call(feed: Mapping[str, Array]) -> Mapping[str, Array]:
            outputs = runner.infer(dict(feed), check_inputs=False)
            return {name: np.array(array) for name, array in outputs.items()}

        best, error = _best_reading(readings(file, pairs, sequence), call)
        if best is None:
            return Decoding(notes=(f"{listed}; not checked: {error}",))
        notes = (f"{listed}; {best.text}",)
        wrong, forked = _departure(best, call), ""
        if wrong is None:
            try:
                wrong, forked = _fork_departure(best, call)
            except Exception as refused:  # runtimes raise what they like
                forked = f"; a fork was not tried: {first_line(refused)}"
    if wrong is None:
        return Decoding(notes=(*notes, f"read {', '.join(best.ways)} it gives the same numbers{forked}"), reading=best)
    return Decoding((f"the file itself: {wrong}{_blamed(best, context)}",), notes)


def _best_reading(ways: Iterator[Reading], call: Call) -> tuple[Reading | None, str]:
    """Return the first way to call a file in which pieces are the whole; else the first in which it runs at all."""
    runs: Reading | None = None
    error = "it runs in no way that was tried"
    for way in itertools.islice(ways, _MOST_READINGS):
        try:
            way = _with_joined(way, call)
            wrong = _departure(way, call)
        except LimitError:
            raise
        except Exception as refused:  # runtimes raise what they like
            error = first_line(refused)
            continue
        if wrong is None:
            return way, ""
        runs = runs or way
    return runs, error


def _with_joined(reading: Reading, call: Call) -> Reading:
    """Return a way to call a file that knows which outputs have a result for each token, and which pieces it takes."""
    given, _ = read(reading, call, reading.random(LENGTH), (LENGTH,))
    per_token = (name for name, (array,) in given.items() if array.ndim > 1 and array.shape[1] == LENGTH)
    ways, refused = [], None
    for how, chunks in _CHUNKS.items():
        try:
            read(reading, call, reading.random(LENGTH), chunks)
        except Exception as error:  # such as several tokens after a prompt, which not every operator takes
            refused = error
        else:
            ways.append(how)
    if len(ways) < 2 and refused is not None:
        raise refused
    return replace(reading, joined=frozenset(per_token), ways=tuple(ways))


def read(reading: Reading, call: Call, whole: Array, chunks: Sequence[int], start: Mapping[str, Array] | None = None,
         done: int = 0) -> tuple[dict[str, list[Array]], dict[str, Array]]:  # fmt: skip
    """Read a sequence in pieces; return what each call gave by output, and the state in the end."""
    state = dict(reading.start(len(whole)) if start is None else start)
    presents = {pair.present for pair in reading.pairs}
    given: dict[str, list[Array]] = {}
    for begin, end in itertools.pairwise(np.cumsum([0, *chunks])):
        outputs = call(reading.feed(whole[:, begin:end], done + int(begin), state))
        state = reading.carried(outputs)
        for name, array in outputs.items():
            if name not in presents:
                given.setdefault(name, []).append(array)
    return given, state


def together(reading: Reading, name: str, pieces: Sequence[Array]) -> Array:
    """Return what pieces gave of an output as one array: joined along the tokens, or that of the last call."""
    return np.concatenate(pieces, 1) if name in reading.joined else pieces[-1]


def _departure(reading: Reading, call: Call) -> str | None:
    """Say where reading in pieces departs from reading in one call; None where it does not."""
    whole = reading.random(LENGTH)
    right, state = read(reading, call, whole, _CHUNKS["in one call"])
    for how in reading.ways:
        given, held = read(reading, call, whole, _CHUNKS[how])
        for name, pieces in given.items():
            value = together(reading, name, pieces)
            if gap := departs(value, tail(right[name][-1], value)):
                so = _wrong_state(reading, held, state)
                return f"read {how}, {name} departs by {gap:.3g} from what it is in one call{so}"
        for pair in reading.pairs:
            if gap := departs(held[pair.past], state[pair.past]):
                return f"read {how}, the state {pair.text} departs by {gap:.3g} from what it is in one call"
    return None


def _wrong_state(reading: Reading, held: Mapping[str, Array], right: Mapping[str, Array]) -> str:
    wrong = [pair.text for pair in reading.pairs if departs(held[pair.past], right[pair.past])]
    if not wrong:
        return ""
    return f"; so does the state {wrong[0]}" + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "")


def _fork_departure(reading: Reading, call: Call) -> tuple[str | None, str]:
    """Say where going on from a state that was copied to another row, with other tokens, departs from one call.

    Returns:
        Where it does, None where it does not; and a clause that says what was tried.
    """
    whole = reading.random(LENGTH)
    rows = [len(whole) - 1] * len(whole)
    other = np.concatenate([whole[rows, :_PREFIX], whole[::-1, _PREFIX:]], 1)
    right, _ = read(reading, call, other, (LENGTH,))
    _, state = read(reading, call, whole, (_PREFIX,))
    read(reading, call, whole[:, _PREFIX:], (1, 1, 1), state, _PREFIX)  # the branch that is given up
    forked = reading.copied(state, rows)
    if forked is None:
        return None, "; a fork was not tried: the file does not say which axis of its state has the rows"
    given, _ = read(reading, call, other[:, _PREFIX:], (1, 1, 1), forked, _PREFIX)
    for name, pieces in given.items():
        value = together(reading, name, pieces)
        if gap := departs(value, tail(right[name][-1], value)):
            return f"after a fork {name} departs by {gap:.3g} from what it is in one call", ""
    return None, ", and so after a fork"


def _blamed(reading: Reading, context: RunContext) -> str:
    """Name the node, and the state that it reads, at which a last single step departs from one call of everything."""
    try:
        return first_departure(reading, context)
    except LimitError:
        raise
    except Exception:  # the finding stands without it
        return ""


class _Steps(BaseRunner):  # type: ignore[misc]
    """Reads sequences in pieces with another runner: `sequence` (B,T,…) and `chunks` (N,) in, outputs put together."""

    def __init__(self, inner: Any, reading: Reading, name: str, *, whole: bool) -> None:
        super().__init__(name=name)
        self._inner = inner
        self._reading = reading
        self._whole = whole
        self._seconds = 0.0

    def activate_impl(self) -> None:
        self._inner.activate()

    def deactivate_impl(self) -> None:
        self._inner.deactivate()

    def get_input_metadata_impl(self) -> TensorMetadata:
        metadata = TensorMetadata()
        sequence = self._reading.random(1)
        metadata.add("sequence", dtype=sequence.dtype, shape=[None] * sequence.ndim)
        return metadata.add("chunks", dtype=np.int64, shape=[None])

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        sequence, chunks = np.asarray(feed_dict["sequence"]), [int(item) for item in feed_dict["chunks"]]
        self._seconds = 0.0
        given, state = read(self._reading, self._call, sequence, [sequence.shape[1]] if self._whole else chunks)
        self.inference_time = self._seconds
        results = {name: together(self._reading, name, pieces) for name, pieces in given.items()}
        return OrderedDict({**results, **{pair.present: state[pair.past] for pair in self._reading.pairs}})

    def _call(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        outputs = self._inner.infer(dict(feed), check_inputs=False)
        self._seconds += self._inner.inference_time
        return {name: np.array(array) for name, array in outputs.items()}


def decoded(file: ModelFile, context: RunContext, plan: Plan, reading: Reading, progress: Progress) -> ValidationResult:
    """Hold every runtime that reads in pieces to the file in float64, which reads in one call."""

    def stepping(runtime: Runtime, *, whole: bool = False) -> Runtime:
        def runner(of: RunContext) -> _Steps:
            return _Steps(runtime.runner(of), reading, runtime.name, whole=whole)

        return replace(runtime, runner=runner)

    whole = reading.random(LENGTH)
    cases = [
        Case(f"read {how}", {"sequence": whole, "chunks": np.array(chunks, np.int64)})
        for how, chunks in _CHUNKS.items()
        if how in reading.ways
    ]
    refused: list[str] = []
    for runtime in plan.candidates:
        kept, others = taken(stepping(runtime), context, cases)
        if kept:  # a runtime that takes none of them fails as it should
            cases = kept
            refused += [f"{runtime.name} does not take what is {item}" for item in others]
    parts = replace(
        plan,
        arbiter=stepping(plan.arbiter, whole=True),
        baseline=stepping(plan.baseline),
        candidates=tuple(stepping(runtime) for runtime in plan.candidates),
        skipped=(),
    )
    return _Pieces(file, None, context, cases, parts, progress).result(refused)


class _Pieces(Validation):
    """A validation whose cases are ways to read a sequence."""

    def _sizes(self) -> list[str]:
        return []

    def _localise(self, runtime: Runtime, worst: Comparison) -> str | None:
        return None  # results of single operators are not put together again over the calls


def with_decoding(plain: ValidationResult, found: Decoding, pieces: ValidationResult | None) -> ValidationResult:
    """Return a validation with what was found of the file's state."""
    if pieces is None:
        problems = (*plain.problems, *found.problems)
        return replace(
            plain, problems=problems, notes=plain.notes + found.notes, passed=plain.passed and not found.problems
        )
    others = {report.runtime: report for report in pieces.runtimes}
    runtimes = []
    for report in plain.runtimes:
        other = others.get(report.runtime)
        if other is not None and other.verdict in ("failed", "not judged") and report.verdict in ("passed", "baseline"):
            report = replace(report, verdict=other.verdict, reason=other.reason)
        runtimes.append(report if other is None else replace(report, worst=_severest(report.worst + other.worst)))
    return replace(
        plain,
        passed=plain.passed and pieces.passed,
        runtimes=tuple(runtimes),
        failures=plain.failures + pieces.failures,
        problems=(*plain.problems, *found.problems, *pieces.problems),
        unjudged=plain.unjudged + pieces.unjudged,
        warnings=tuple(dict.fromkeys((*plain.warnings, *pieces.warnings))),
        notes=tuple(dict.fromkeys((*plain.notes, *found.notes, *pieces.notes))),
        cases=plain.cases + pieces.cases,
        early=plain.early or pieces.early,
    )


def _severest(items: Sequence[Comparison]) -> tuple[Comparison, ...]:
    worst: dict[str, Comparison] = {}
    for item in items:
        if item.output not in worst or item.severity > worst[item.output].severity:
            worst[item.output] = item
    return tuple(worst.values())
