"""The function `bench`: check the numbers, then time the runtimes in turns."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingDependencyError, NumbersDifferError, UsageError
from ..machine import processor, versions
from .result import Accuracy, BenchResult, Measurement, Spread, crossovers

if TYPE_CHECKING:
    from ..onnx_model.model_file import ModelFile
    from ..validation import ValidationResult
    from .processes import WorkerProcess

Progress = Callable[[str], None]
Shape = tuple[int, int]
_RUNTIMES = (
    "torch", "torch-compile", "ort", "ort-fused", "cpp", "ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
_LENGTHS = (128, 512, 2048)
# Until the idle threads of the runtime before have stopped spinning.
_PAUSE_SECONDS = 0.005
_PACKAGES = ("torch", "onnxruntime", "onnx", "numpy", "hsm-export")


def bench(
    model: str | Path,
    against: str | Path | None = None,
    *,
    runtimes: Sequence[str] | None = None,
    batch: int = 1,
    lengths: Sequence[int] | None = None,
    threads: int | None = None,
    repetitions: int = 15,
    progress: Progress | None = None,
) -> BenchResult:
    """Time a file in several runtimes, after the numbers of each were checked against the float64 arbiter.

    Each runtime has a process of its own, so that memory can be told apart. They take turns, shortest length first:
    what else happens on the machine then hits all of them alike. Times are those of the computation, without
    the conversion of inputs.

    Args:
        model: the ONNX file.
        against: the checkpoint or `zoo:NAME` that it was exported from; the PyTorch runtimes need it.
        runtimes: names of the runtimes; None means PyTorch, ONNX Runtime and TensorRT in all their forms, as far as
            they work here.
        batch: rows.
        lengths: tokens of a row; None means 128, 512 and 2048, up to the model's longest.
        threads: threads of every runtime; None means every core that this process may use.
        repetitions: turns of each runtime at each length; a turn of a quick model is many calls.
        progress: receives the name of each phase.

    Raises:
        NumbersDifferError: a runtime's numbers are wrong; nothing was timed then.
        UsageError: an unknown runtime, one that needs a checkpoint without one, or an impossible shape.
        MissingDependencyError: a runtime that was asked for does not work on this machine.
        BadInputError: the file or the checkpoint cannot be used.
    """
    from ..onnx_model.model_file import open_model
    from ..runtimes import get
    from .processes import worker_processes
    from .protocol import Job

    progress = progress or (lambda phase: None)
    threads = threads if threads is not None else len(os.sched_getaffinity(0))
    _check_counts(batch=batch, threads=threads, repetitions=repetitions)
    progress("opening the model")
    file = open_model(model)
    shapes = _shapes(file, batch, lengths)
    names, skipped = _choose(runtimes, against is not None)
    validation = _check_numbers(file, against, names, shapes, progress)
    load_before = os.getloadavg()[0]
    checkpoint = str(against) if against is not None else None
    jobs = [Job(str(file.path), checkpoint, name, tuple(shapes)) for name in names]
    progress("starting the runtimes")
    with worker_processes(jobs, threads) as workers:
        fixed = not has_length(file)
        measurements = [
            measurement
            for index, shape in enumerate(shapes)
            for measurement in _measure(workers, index, shape, fixed, repetitions, progress)
        ]
    return BenchResult(
        model=str(file.path),
        against=checkpoint,
        precision=file.precision,
        arbiter=validation.arbiter,
        batch=batch,
        lengths=() if fixed else tuple(length for _, length in shapes),
        threads=threads,
        accuracy=_accuracy(validation, names),
        measurements=tuple(measurements),
        crossovers=crossovers(measurements),
        skipped=skipped,
        machine=f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **versions(*_PACKAGES)},
        load=(load_before, os.getloadavg()[0]),
        notes=tuple(f"{name}: {note}" for name in names for note in get(name).notes(file.model)),
    )


def has_length(file: ModelFile) -> bool:
    """Say whether the model's inputs have a dynamic dimension beside the batch."""
    return any(isinstance(dim, str) for spec in file.inputs for dim in spec.shape[1:])


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}")


def _shapes(file: ModelFile, batch: int, lengths: Sequence[int] | None) -> list[Shape]:
    """Return (batch, length) in ascending order.

    Raises:
        UsageError: lengths for a model of fixed size, below 1, or beyond the model's longest.
    """
    if not has_length(file):
        if lengths is not None:
            raise UsageError(f"the inputs of {file.path} have a fixed length", "leave the lengths out")
        return [(batch, 1)]
    longest = int(file.config.get("max_length") or 0)
    if lengths is None:
        lengths = [min(length, longest) if longest else length for length in _LENGTHS]
    for length in lengths:
        if length < 1:
            raise UsageError(f"lengths must be at least 1, got {length}")
        if longest and length > longest:
            raise UsageError(
                f"length {length} is beyond the model's longest sequence, {longest} tokens",
                f"use lengths up to {longest}",
            )
    if not lengths:
        raise UsageError("there is no length to measure", "name at least one")
    return [(batch, length) for length in sorted(set(lengths))]


def _choose(runtimes: Sequence[str] | None, has_source: bool) -> tuple[list[str], dict[str, str]]:
    """Return the runtimes to time, and those left out with the reason."""
    from ..runtimes import get

    skipped: dict[str, str] = {}
    for name in dict.fromkeys(_RUNTIMES if runtimes is None else runtimes):
        runtime = get(name)
        if runtime.needs_source and not has_source:
            if runtimes is not None:
                raise UsageError(f"runtime {name!r} needs the PyTorch model", "name it with --against CHECKPOINT")
            skipped[name] = "needs the PyTorch model: name it with --against"
        elif reason := runtime.available():
            if runtimes is not None:
                raise MissingDependencyError(f"runtime {name!r} does not work here: {reason}")
            skipped[name] = reason
    names = [name for name in dict.fromkeys(_RUNTIMES if runtimes is None else runtimes) if name not in skipped]
    if not names:
        raise MissingDependencyError("no runtime works here", "`hsm-export doctor` says what to install")
    return names, skipped


def _check_numbers(
    file: ModelFile, against: str | Path | None, names: Sequence[str], shapes: Sequence[Shape], progress: Progress
) -> ValidationResult:
    """Validate the runtimes at the shapes that will be timed.

    Raises:
        NumbersDifferError: one of them is wrong.
    """
    from ..validation import validate

    result = validate(
        file.path,
        against,
        runtimes=list(names) if set(names) - {"torch", "torch64", "onnx64"} else None,
        shapes=shapes,
        progress=lambda phase: progress(f"checking the numbers: {phase}"),
    )
    if not result.passed:
        raise NumbersDifferError(f"nothing was timed: {result.summary}", "`hsm-export validate` shows more")
    return result


def _accuracy(validation: ValidationResult, names: Sequence[str]) -> tuple[Accuracy, ...]:
    """Return the errors of the runtimes that were timed, at the output nearest to its tolerance."""
    reports = {report.runtime: report for report in validation.runtimes if report.runtime in names and report.worst}
    nearest = {name: max(report.worst, key=lambda item: item.severity) for name, report in reports.items()}
    return tuple(
        Accuracy(name, reports[name].verdict, nearest[name].errors.max_abs, nearest[name].threshold.value)
        for name in names
        if name in reports
    )


def _measure(
    workers: Sequence[WorkerProcess], index: int, shape: Shape, fixed: bool, repetitions: int, progress: Progress
) -> list[Measurement]:
    """Let the runtimes take turns at one shape."""
    batch, length = shape
    what = f"batch {batch}" if fixed else f"batch {batch}, length {length}"
    for worker in workers:
        progress(f"{what}: warming up {worker.runtime}")
        worker.ask("prepare", index)
    seconds: dict[str, list[float]] = {worker.runtime: [] for worker in workers}
    for turn in range(repetitions):
        progress(f"{what}: turn {turn + 1} of {repetitions}")
        for worker in (*workers[turn % len(workers) :], *workers[: turn % len(workers)]):
            time.sleep(_PAUSE_SECONDS)
            seconds[worker.runtime].append(worker.ask("turn", index))
    measurements = []
    for worker in workers:
        memory = worker.ask("memory", index)
        spread = Spread.of(seconds[worker.runtime])
        rate = batch * (1 if fixed else length) / spread.median
        measurements.append(
            Measurement(worker.runtime, batch, None if fixed else length, spread, rate, memory["peak"], memory["extra"])
        )
    return measurements
