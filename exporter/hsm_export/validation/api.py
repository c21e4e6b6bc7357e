"""The function `validate`: choose arbiter, baseline and cases, run the runtimes one at a time, judge each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, LimitError, UsageError, first_line
from ..limits import LimitReached
from .results import Comparison, DecodingReport, RuntimeReport, ValidationResult
from .truth import Measurement

if TYPE_CHECKING:
    from torch import nn

    from ..comparison.bar import Bar
    from ..limits import Limits
    from ..onnx_model.model_file import ModelFile
    from ..runtimes.runtime import RunContext, Runtime
    from .cases import Case, Shape
    from .references import References

Progress = Callable[[str], None]


def validate(
    model: str | Path,
    against: str | Path | nn.Module | None = None,
    *,
    runtimes: Sequence[str] | None = None,
    inputs: str | Path | Mapping[str, Any] | None = None,
    shapes: Sequence[Shape] | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
    keep: Callable[[ValidationResult], None] | None = None,
) -> ValidationResult:
    """Run a file in several runtimes and hold each to tolerances derived from float64 and native precision.

    The arbiter is the PyTorch model in float64 or, without one, the file's own maths in float64. A runtime's error may
    be at most twice that of the baseline (PyTorch in the file's precision or, without it, onnx's own evaluator, both in
    several orders of summation) or twice what rounding every tensor at random changes, at least 4 eps(T)
    max|reference|. A decoding file reads sequences in pieces, with its state, against one pass over everything.

    Args:
        model: the ONNX file.
        against: a checkpoint, `zoo:NAME`, or the module that was exported; None compares runtimes with each other.
        runtimes: names of the runtimes to judge; None means every one that works here and takes seconds.
        inputs: an .npz file or a mapping of input names to arrays, instead of the built-in cases.
        shapes: (batch, length) pairs of the built-in cases, instead of the awkward ones.
        steps: of a decoding file, single steps of its longest case (default 64).
        progress: receives the name of each phase.
        limits: caps on time and memory, looked at between phases; the report then says how far it came.
        keep: receives what has been found so far, whenever there is more of it.

    Raises:
        BadInputError: the file, the inputs or the pair of file and checkpoint cannot be used.
        CheckpointError: the checkpoint cannot be used.
        UsageError: an unknown runtime, a runtime that needs a checkpoint without one, or impossible shapes.
        MissingDependencyError: a runtime that was asked for does not work on this machine.
    """
    from ..onnx_model.model_file import open_model
    from ..runtimes.routing import instrument
    from ..runtimes.runtime import RunContext
    from .planning import make_plan, requested
    from .sources import open_source

    progress = _checked(progress, limits)
    names = requested(runtimes, against is not None)
    progress("opening the model")
    file = open_model(model)
    source = open_source(against) if against is not None else None
    instrumented, routed = instrument(file.model)
    context = RunContext(
        instrumented, file.path.parent, file.precision, source.load if source is not None else None, routed
    )
    plan = make_plan(names, file, source)
    if file.metadata.get("decode") == "1":
        from .decoding import prepare

        validation, notes = prepare(file, source, context, plan, progress, inputs, shapes, steps)
        return validation.result(notes, keep)
    if steps is not None:
        raise UsageError(f"{file.path} has no state to step with", "export it with `hsm-export export --decode`")
    cases, notes = _cases(file, inputs, shapes, lambda feed: _call(plan.arbiter, context, feed))
    return Validation(file, source, context, cases, plan, progress).result(notes, keep)


def references(
    file: ModelFile, cases: list[Case], against: str | Path | nn.Module | None = None, progress: Progress | None = None
) -> References:
    """Return the numbers and tolerances that a runtime on another machine has to meet.

    Args:
        file: the opened ONNX file; a decoding file makes one call with each case, its state among the inputs.
        cases: the inputs.
        against: as for `validate`.
        progress: receives the name of each phase.

    Raises:
        BadInputError: the cases prove nothing: the model is not finite, or the arbiter cannot run it.
    """
    from ..runtimes.routing import instrument
    from ..runtimes.runtime import RunContext
    from .planning import make_plan
    from .sources import open_source

    source = open_source(against) if against is not None else None
    if source is not None and file.metadata.get("decode") == "1":
        from .decoding import decoding_source, state_of

        source = decoding_source(source, state_of(file))
    instrumented, routed = instrument(file.model)
    load = source.load if source is not None else None
    context = RunContext(instrumented, file.path.parent, file.precision, load, routed)
    plan = make_plan(("torch",), file, source)
    return Validation(file, source, context, cases, plan, progress or (lambda phase: None)).references()


class Validation(Measurement):
    """One validation: everything that its steps share."""

    def result(self, notes: list[str], keep: Callable[[ValidationResult], None] | None = None) -> ValidationResult:
        """Run everything and return the outcome; what a cap cuts off is said in it.

        Args:
            notes: how the cases were chosen.
            keep: receives the outcome so far after each runtime.
        """
        early = ""
        try:
            for _ in self._reports():
                if keep is not None:
                    keep(self._outcome(notes, "it was ended"))
        except (LimitError, LimitReached) as error:
            early = error.message
        return self._outcome(notes, early)

    def _reports(self) -> Iterator[RuntimeReport]:
        """Run everything, and yield each report as soon as it is added to the others."""
        truth = self.truth()
        arbiter, bars = truth.arbiter, truth.bars
        self._judged += [self._judge(self._plan.baseline, truth.natives[0], arbiter, bars, "baseline")]
        self._judged += self._plan.skipped
        truth.natives.clear()  # large, and no longer needed
        yield self._judged[0]
        for runtime in () if truth.unjudged else self._plan.candidates:
            self._judged.append(self._report(runtime, truth.feeds, arbiter, bars))
            yield self._judged[-1]
        if not self._plan.candidates:
            self._unjudged.append("no runtime was judged: none of those asked for works here")

    def _outcome(self, notes: list[str], early: str = "") -> ValidationResult:
        """Return what was found; `early` says why not everything was looked at."""
        return ValidationResult(
            model=str(self._file.path),
            against=self._source.name if self._source else None,
            precision=self._file.precision,
            arbiter=self._plan.arbiter.name,
            baseline=self._plan.baseline.name,
            passed=not (self._problems or self._failures or self._unjudged or early),
            runtimes=tuple(self._judged),
            failures=tuple(self._failures),
            problems=tuple(self._problems),
            unjudged=tuple(self._unjudged),
            warnings=tuple(self._warnings()),
            notes=(*notes, *self._notes, *self._sizes(), *self._how_they_run(), *sorted(self._context.remarks)),
            cases=tuple(case.name for case in self._cases),
            early=early,
        )

    def _sizes(self) -> list[str]:
        """Return a note of the sizes that the cases cover."""
        from .cases import covered

        sizes = covered(self._cases, self._file)
        return [sizes] if sizes and not self._file.decodes else []

    def _how_they_run(self) -> list[str]:
        """Return what is to know of how the judged runtimes run the file."""
        judged = (self._plan.baseline, *self._plan.candidates)
        return [f"{runtime.name}: {note}" for runtime in judged for note in runtime.notes(self._file.model)]

    def references(self) -> References:
        """Run arbiter and baseline only, and return what any runtime has to meet."""
        from .references import collect

        truth = self.truth()
        if truth.problems or truth.unjudged:
            raise BadInputError((*truth.problems, *truth.unjudged)[0], "`hsm-export validate` shows more")
        runs = (truth.arbiter, *truth.natives)
        forced = [[dict(item.items()) for item in results[0][1][: len(self._cases)]] for results in runs]
        causal = self._file.task == "language_model"
        names = self._plan.arbiter.name, self._context.routed, self._cases
        return collect(*names, truth.bars, forced[0], forced[1:], causal=causal)

    def _report(
        self, runtime: Runtime, feeds: list[dict[str, Any]], arbiter: Any, bars: list[dict[str, Bar]]
    ) -> RuntimeReport:
        from .running import run

        self._progress(f"running {runtime.name}")
        try:
            results = run(runtime, self._context, feeds)
        except Exception as error:
            reason = f"{runtime.name} cannot run the file: {first_line(error)}"
            self._problems.append(reason)
            return RuntimeReport(runtime.name, "failed", 0, reason=reason)
        return self._judge(runtime, results, arbiter, bars, "passed")

    def _judge(
        self, runtime: Runtime, results: Any, arbiter: Any, bars: list[dict[str, Bar]], verdict: str
    ) -> RuntimeReport:
        from .judging import Judge

        judge = Judge(runtime.name, self._cases, self._iterations, bars, self._context.routed, self._file)
        judge.compare(arbiter[0][1], results[0][1])
        failures = [comparison for comparison in judge.comparisons if not comparison.passed]
        flips = judge.flips.result() if self._context.routed else None
        self._failures += failures
        worst = max(failures, key=lambda item: item.severity) if failures else None
        reason = worst.line() if worst else None
        if flips and flips.unexcused:
            reason = (
                f"{runtime.name}: {flips.unexcused} of {flips.choices} expert choices differ from the arbiter's by "
                f"more than the router's error {flips.router_error:.3g}"
            )
            self._problems.append(reason)
        unjudged = judge.unjudged()
        if unjudged and not reason:
            verdict, reason = "not judged", unjudged
            self._unjudged.append(unjudged)
        decoding = self._decoding(runtime, results, arbiter)
        if decoding and decoding.inexact and not reason:
            reason = f"{runtime.name}: {decoding.inexact[0]}"
        return RuntimeReport(
            runtime=runtime.name,
            verdict="failed" if reason and reason != unjudged else verdict,
            cases=len(self._cases),
            max_abs_error=self._largest_error(judge.comparisons),
            worst=_worst(judge.comparisons),
            flips=flips,
            reason=reason,
            departs=self._localise(runtime, worst) if worst else None,
            seconds=judge.seconds,
            decoding=decoding,
        )

    def _decoding(self, runtime: Runtime, results: Any, arbiter: Any) -> DecodingReport | None:
        """Say how a runtime decodes; None for files without a state."""
        return None

    def _largest_error(self, comparisons: list[Comparison]) -> float:
        """Return the largest error of the model's own outputs on ordinary inputs."""
        ordinary = {case.name for case in self._cases if case.ordinary}
        exposed = {node.logits for node in self._context.routed}
        own = [item for item in comparisons if item.case in ordinary and item.output not in exposed]
        return max((item.errors.max_abs for item in own), default=0.0)

    def _localise(self, runtime: Runtime, worst: Comparison) -> str | None:
        """Say at which operator a failed runtime first departs; None where that cannot be found out."""
        from .localising import first_departure

        self._progress(f"looking for the operator at which {runtime.name} departs")
        case = next(case for case in self._cases if case.name == worst.case)
        runtimes = (self._plan.arbiter, self._plan.baseline, runtime)
        try:
            return first_departure(self._file, self._context, runtimes, case)
        except Exception:
            # The verdict stands without it: a checkpoint of another architecture has other operators.
            return None

    def _warnings(self) -> list[str]:
        return [warning for warning in (self._doubt_about_source(), self._no_native, *self._doubts.values()) if warning]

    def _doubt_about_source(self) -> str | None:
        if self._source is None:
            return (
                "no checkpoint given: the arbiter is the file's own maths in float64, and native error is that of "
                "onnx's reference evaluator; this compares runtimes, it does not prove the export"
            )
        recorded = self._file.metadata.get("source_sha256")
        if self._source.fingerprint and recorded and recorded != self._source.fingerprint:
            return (
                f"{self._source.name} is NOT the checkpoint that {self._file.path} was exported from: its SHA-256 is "
                f"{self._source.fingerprint[:12]}…, the file names {recorded[:12]}…"
            )
        return None


def _checked(progress: Progress | None, limits: Limits | None) -> Progress:
    """Return what is told of phases; it raises where a cap is reached."""

    def enter(phase: str) -> None:
        if limits is not None:
            limits.check(phase)
        if progress is not None:
            progress(phase)

    return enter


def _call(runtime: Runtime, context: RunContext, feed: Mapping[str, Any]) -> Any:
    """Run a file once, to see whether it takes these inputs."""
    from .running import run

    masks = {node.mask: node.free_mask() for node in context.routed}
    return run(runtime, context, [{**feed, **masks}])


def _cases(
    file: ModelFile,
    inputs: str | Path | Mapping[str, Any] | None,
    shapes: Sequence[Shape] | None,
    call: Callable[[Mapping[str, Any]], Any],
) -> tuple[list[Case], list[str]]:
    from .cases import user_case
    from .tried_cases import chosen_cases

    if inputs is not None:
        if shapes:
            raise UsageError("inputs and shapes contradict each other", "give one of them")
        return [user_case(file, inputs)], []
    return chosen_cases(file, call, shapes)


def _worst(comparisons: list[Comparison]) -> tuple[Comparison, ...]:
    """Return the severest comparison of each output, in the order of the outputs."""
    worst: dict[str, Comparison] = {}
    for item in comparisons:
        if item.output not in worst or item.severity > worst[item.output].severity:
            worst[item.output] = item
    return tuple(worst.values())
