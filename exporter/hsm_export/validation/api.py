"""The function `validate`: choose arbiter, baseline and cases, run the runtimes one at a time, judge each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, HsmExportError, UsageError
from .results import Comparison, DecodingReport, RuntimeReport, ValidationResult, describe_shapes

if TYPE_CHECKING:
    from torch import nn

    from ..onnx_model.model_file import ModelFile
    from ..runtimes.runtime import RunContext, Runtime
    from .cases import Case
    from .planning import Plan
    from .reference import Bar
    from .references import References
    from .running import Iteration
    from .sources import Source

Progress = Callable[[str], None]


def validate(
    model: str | Path,
    against: str | Path | nn.Module | None = None,
    *,
    runtimes: Sequence[str] | None = None,
    inputs: str | Path | Mapping[str, Any] | None = None,
    shapes: Sequence[tuple[int, int]] | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
) -> ValidationResult:
    """Run a file in several runtimes and hold each to tolerances derived from float64 and native precision.

    The arbiter is the PyTorch model in float64 or, without one, the file's own maths in float64. A runtime's error may
    be at most twice that of the baseline (PyTorch in the file's precision or, without it, onnx's own evaluator, both in
    several orders of summation), with a floor of 4 eps(T) max|reference|. A decoding file reads sequences in pieces,
    with its state, against one pass over everything.

    Args:
        model: the ONNX file.
        against: a checkpoint, `zoo:NAME`, or the module that was exported; None compares runtimes with each other.
        runtimes: names of the runtimes to judge; None means every one that works here and takes seconds.
        inputs: an .npz file or a mapping of input names to arrays, instead of the built-in cases.
        shapes: (batch, length) pairs of the built-in cases, instead of the awkward ones.
        steps: of a decoding file, single steps of its longest case (default 64).
        progress: receives the name of each phase.

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

    progress = progress or (lambda phase: None)
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
        return validation.result(notes)
    if steps is not None:
        raise UsageError(f"{file.path} has no state to step with", "export it with `hsm-export export --decode`")
    cases, notes = _cases(file, inputs, shapes, lambda feed: _call(plan.arbiter, context, feed))
    return Validation(file, source, context, cases, plan, progress).result(notes)


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


@dataclass(frozen=True)
class Truth:
    """What every runtime is held to.

    Attributes:
        arbiter: Polygraphy's results of the arbiter, one an iteration.
        feeds: the inputs of each iteration.
        natives: results of the baseline, one for each of its ways to evaluate the model.
        bars: per case, what every output must be.
        iterations: which case each run is, and who chooses the experts in it.
        plan: who played which part in the end.
        problems: why the numbers prove nothing; empty when they do.
    """

    arbiter: Any
    feeds: list[dict[str, Any]]
    natives: list[Any]
    bars: list[dict[str, Bar]]
    iterations: list[Iteration]
    plan: Plan
    problems: tuple[str, ...]


class Validation:
    """One validation: everything that its steps share."""

    def __init__(
        self,
        file: ModelFile,
        source: Source | None,
        context: RunContext,
        cases: list[Case],
        plan: Plan,
        progress: Progress,
    ) -> None:
        from .running import iterations

        self._file = file
        self._source = source
        self._context = context
        self._cases = cases
        self._plan = plan
        self._progress = progress
        self._iterations = iterations(cases, context.routed)
        self._problems: list[str] = []
        self._no_native: str | None = None
        self._failures: list[Comparison] = []

    def truth(self) -> Truth:
        """Run arbiter and baseline, and derive the tolerances."""
        arbiter, feeds = self._run_arbiter()
        natives = self._run_baseline(feeds)
        bars = self._bars(arbiter, natives, self._exact(feeds))
        return Truth(arbiter, feeds, natives, bars, self._iterations, self._plan, tuple(self._problems))

    def result(self, notes: list[str]) -> ValidationResult:
        """Run everything and return the outcome."""
        truth = self.truth()
        arbiter, bars = truth.arbiter, truth.bars
        reports = [self._judge(self._plan.baseline, truth.natives[0], arbiter, bars, "baseline"), *self._plan.skipped]
        truth.natives.clear()  # large, and no longer needed
        for runtime in self._plan.candidates:
            reports.append(self._report(runtime, truth.feeds, arbiter, bars))
        if not self._plan.candidates:
            self._problems.append("no runtime was judged: none of those asked for works here")
        return ValidationResult(
            model=str(self._file.path),
            against=self._source.name if self._source else None,
            precision=self._file.precision,
            arbiter=self._plan.arbiter.name,
            baseline=self._plan.baseline.name,
            passed=not self._problems and not self._failures,
            runtimes=tuple(reports),
            failures=tuple(self._failures),
            problems=tuple(self._problems),
            warnings=tuple(self._warnings()),
            notes=(*notes, *self._how_they_run()),
            cases=tuple(case.name for case in self._cases),
        )

    def _how_they_run(self) -> list[str]:
        """Return what is to know of how the judged runtimes run the file."""
        judged = (self._plan.baseline, *self._plan.candidates)
        return [f"{runtime.name}: {note}" for runtime in judged for note in runtime.notes(self._file.model)]

    def references(self) -> References:
        """Run arbiter and baseline only, and return what any runtime has to meet."""
        from .references import collect

        truth = self.truth()
        if truth.problems:
            raise BadInputError(truth.problems[0], "`hsm-export validate` shows more")
        runs = (truth.arbiter, *truth.natives)
        forced = [[dict(item.items()) for item in results[0][1][: len(self._cases)]] for results in runs]
        causal = self._file.task == "language_model"
        names = self._plan.arbiter.name, self._context.routed, self._cases
        return collect(*names, truth.bars, forced[0], forced[1:], causal=causal)

    def _run_arbiter(self) -> tuple[Any, list[dict[str, Any]]]:
        """Return the arbiter's results per iteration, and the inputs of every runtime's iterations."""
        from polygraphy.comparator import RunResults

        from .running import FREE, forced_feed, free_feed, run

        routed = self._context.routed
        self._progress(f"running {self._plan.arbiter.name}, the arbiter")
        free = [free_feed(case, routed) for case in self._cases]
        try:
            outputs = run(self._plan.arbiter, self._context, free)[0][1]
        except Exception as error:
            raise _unusable(self._plan.arbiter, error) from error
        choices = [[node.selection(output[node.logits]) for node in routed] for output in outputs]
        forced = [forced_feed(case, routed, choice) for case, choice in zip(self._cases, choices, strict=True)]
        feeds = [(free if item.mode == FREE else forced)[item.case] for item in self._iterations]
        repeated = RunResults()
        repeated.append((self._plan.arbiter.name, [outputs[item.case] for item in self._iterations]))
        return repeated, feeds

    def _run_baseline(self, feeds: list[dict[str, Any]]) -> list[Any]:
        """Run the baseline in each of its ways to evaluate the model.

        Where PyTorch cannot run the model in this precision, onnx's evaluator takes its part.
        """
        from ..runtimes import get
        from .planning import baseline_contexts
        from .running import run

        baseline = self._plan.baseline
        self._progress(f"running {baseline.name}, the baseline")
        try:
            contexts = baseline_contexts(baseline, self._context, self._file)
            return [run(baseline, context, feeds) for context in contexts]
        except Exception as error:
            if not baseline.needs_source or self._file.precision == "fp32":
                raise _unusable(baseline, error) from error
            self._no_native = (
                f"PyTorch cannot run the model in {self._file.precision} ({_first_line(error)}): native error is that "
                "of onnx's reference evaluator"
            )
        substitute = get("onnx-reference")
        others = tuple(runtime for runtime in self._plan.candidates if runtime.name != substitute.name)
        self._plan = replace(self._plan, baseline=substitute, candidates=others)
        return self._run_baseline(feeds)

    def _exact(self, feeds: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Return float64 outputs per case where the arbiter is none; the native error is measured against them."""
        from ..runtimes import get
        from .running import run

        exact = get("torch64" if self._source is not None else "onnx64")
        if self._plan.arbiter.name in ("torch64", "onnx64"):
            return None
        self._progress(f"running {exact.name}")
        try:
            outputs = run(exact, self._context, feeds[: len(self._cases)])[0][1]
        except Exception as error:
            raise _unusable(exact, error) from error
        return [dict(output.items()) for output in outputs]

    def _bars(
        self, arbiter: Any, natives: list[Any], exact: list[dict[str, Any]] | None = None
    ) -> list[dict[str, Bar]]:
        """Derive the tolerances; the first iterations are those with the arbiter's experts, where there are any."""
        from .reference import bars

        count = len(self._cases)
        outputs = [[dict(item.items()) for item in results[0][1][:count]] for results in (arbiter, *natives)]
        try:
            derived = bars(self._file, self._cases, outputs[0], outputs[1:], exact)
        except ValueError as error:
            raise _unusable(self._plan.arbiter, error) from error
        for case, of_case in zip(self._cases, derived, strict=True):
            for name, bar in of_case.items():
                if bar.problem:
                    shapes = describe_shapes(case.shapes)
                    self._problems.append(
                        f"{self._plan.baseline.name}: output {name} {bar.problem} (input {shapes}; case {case.name!r})"
                    )
        return derived

    def _report(
        self, runtime: Runtime, feeds: list[dict[str, Any]], arbiter: Any, bars: list[dict[str, Bar]]
    ) -> RuntimeReport:
        from .running import run

        self._progress(f"running {runtime.name}")
        try:
            results = run(runtime, self._context, feeds)
        except Exception as error:
            reason = f"{runtime.name} cannot run the file: {_first_line(error)}"
            self._problems.append(reason)
            return RuntimeReport(runtime.name, "failed", 0, reason=reason)
        return self._judge(runtime, results, arbiter, bars, "passed")

    def _judge(
        self, runtime: Runtime, results: Any, arbiter: Any, bars: list[dict[str, Bar]], verdict: str
    ) -> RuntimeReport:
        from polygraphy.comparator import Comparator

        from .judging import Judge
        from .running import quiet

        language_model = self._file.task == "language_model"
        judge = Judge(runtime.name, self._cases, self._iterations, bars, self._context.routed, language_model)
        with quiet():
            Comparator.compare_accuracy([arbiter, results], compare_func=judge, comparisons=[(0, 1)])
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
        decoding = self._decoding(runtime, results, arbiter)
        if decoding and decoding.inexact and not reason:
            reason = f"{runtime.name}: {decoding.inexact[0]}"
        return RuntimeReport(
            runtime=runtime.name,
            verdict="failed" if reason else verdict,
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
        return max((item.max_abs_error for item in own), default=0.0)

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
        return [warning for warning in (self._doubt_about_source(), self._no_native) if warning]

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


def _call(runtime: Runtime, context: RunContext, feed: Mapping[str, Any]) -> Any:
    """Run a file once, to see whether it takes these inputs."""
    from .running import run

    masks = {node.mask: node.free_mask() for node in context.routed}
    return run(runtime, context, [{**feed, **masks}])


def _cases(
    file: ModelFile,
    inputs: str | Path | Mapping[str, Any] | None,
    shapes: Sequence[tuple[int, int]] | None,
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


def _unusable(runtime: Runtime, error: Exception) -> HsmExportError:
    return BadInputError(
        f"{runtime.name} cannot run these inputs: {_first_line(error)}",
        "is this the checkpoint that the file was exported from, and are the inputs what the model takes? "
        "A module of your own must run in float64 too"
        if runtime.needs_source
        else "are the inputs what the model takes? `hsm-export diff --reference` compares with another runtime",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
