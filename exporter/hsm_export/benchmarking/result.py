"""What a benchmark returns: typed measurements, and where one runtime overtakes another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from ..formats.result import Result


@dataclass(frozen=True)
class Spread(Result):
    """A quantity over repetitions, in seconds.

    Attributes:
        median: the middle one.
        q1: lower quartile.
        q3: upper quartile.
        minimum: the smallest.
        repetitions: how many there were.
    """

    median: float
    q1: float
    q3: float
    minimum: float
    repetitions: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Summarise at least one time."""
        quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
        return cls(quartiles[1], quartiles[0], quartiles[2], min(seconds), len(seconds))


@dataclass(frozen=True)
class Accuracy(Result):
    """How a runtime did when its numbers were checked, before anything was timed.

    Attributes:
        runtime: its name.
        verdict: "passed", or "baseline" when its own error sets the tolerance.
        max_abs_error: largest absolute error of the model's outputs against the float64 arbiter.
        tolerance: what that may be, at the output that came nearest to it.
    """

    runtime: str
    verdict: str
    max_abs_error: float
    tolerance: float


@dataclass(frozen=True)
class Measurement(Result):
    """One runtime at one length.

    Attributes:
        runtime: its name.
        batch: rows of the batch.
        length: tokens of a row; None when the model's inputs have a fixed size.
        seconds: time of one run of the whole batch.
        per_second: tokens per second; rows per second when the inputs have a fixed size.
        peak_bytes: largest resident memory of the runtime's process while it ran this length.
        extra_bytes: by how much that exceeds the process with the model loaded, before its first run.
    """

    runtime: str
    batch: int
    length: int | None
    seconds: Spread
    per_second: float
    peak_bytes: int
    extra_bytes: int


@dataclass(frozen=True)
class Crossover(Result):
    """The length at which one runtime overtakes another, between two where their quartiles lie apart.

    Attributes:
        quicker_below: the runtime that is quicker for shorter inputs.
        quicker_above: the runtime that is quicker for longer inputs.
        length: tokens.
    """

    quicker_below: str
    quicker_above: str
    length: float


@dataclass(frozen=True)
class BenchResult(Result):
    """The outcome of `bench`.

    Attributes:
        model: the ONNX file.
        against: the checkpoint that the PyTorch runtimes ran and the numbers were compared with.
        precision: type of the weights and activations.
        arbiter: the float64 evaluation that the numbers were checked against.
        batch: rows of every batch.
        lengths: tokens of a row, ascending; empty when the model's inputs have a fixed size.
        threads: threads of every runtime.
        accuracy: how each runtime did before it was timed.
        measurements: by length, then by runtime as asked for.
        crossovers: where one runtime overtakes another.
        skipped: runtimes that were left out, with the reason.
        machine: processor, number of cores and system.
        versions: versions of the packages that ran.
        load: the machine's one-minute load average before and after: other work makes times longer.
        notes: what is to know of how the runtimes ran, such as operators that ran as their bodies.
    """

    model: str
    against: str | None
    precision: str
    arbiter: str
    batch: int
    lengths: tuple[int, ...]
    threads: int
    accuracy: tuple[Accuracy, ...]
    measurements: tuple[Measurement, ...]
    crossovers: tuple[Crossover, ...]
    skipped: dict[str, str]
    machine: str
    versions: dict[str, str]
    load: tuple[float, float]
    notes: tuple[str, ...] = ()


def crossovers(measurements: Sequence[Measurement]) -> tuple[Crossover, ...]:
    """Return where one runtime overtakes another: from a length where it is slower to one where it is quicker.

    A length counts only where the quartiles of the two do not overlap: elsewhere chance decides which median is the
    smaller. The length is where the straight lines meet between the two points on logarithmic axes.
    """
    times: dict[str, dict[int, Spread]] = {}
    for item in measurements:
        if item.length is not None:
            times.setdefault(item.runtime, {})[item.length] = item.seconds
    found = []
    for first, second in combinations(times, 2):
        shared = sorted(times[first].keys() & times[second].keys())
        pairs = [(length, times[first][length], times[second][length]) for length in shared]
        gaps = [(length, math.log(a.median / b.median)) for length, a, b in pairs if a.q3 < b.q1 or b.q3 < a.q1]
        for (left, before), (right, after) in pairwise(gaps):
            if before * after < 0:
                share = before / (before - after)
                length = math.exp(math.log(left) + share * math.log(right / left))
                below, above = (first, second) if before < 0 else (second, first)
                found.append(Crossover(below, above, length))
    return tuple(found)


def threads_in_words(count: int) -> str:
    """Return "1 thread", "2 threads" and so on."""
    return f"{count} thread{'' if count == 1 else 's'}"
