"""A validation: run the runtimes one at a time and judge each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, LimitError, first_line
from ..limits import LimitReached
from .results import Comparison, DecodingReport, RuntimeReport, ValidationResult
from .truth import EXACT, Measurement, Truth

if TYPE_CHECKING:
    from ..comparison.bar import Bar
    from ..runtimes.runtime import Runtime
    from .judging import Judge
    from .references import References

# A few random roundings may show a third of what many do (`runtimes.rounding.draws`). Who misses by more is wrong.
_LUCK = 3.0


class Validation(Measurement):
    """One validation: everything that its steps share.

    Attributes:
        recorded: outputs of a run that somebody recorded on the inputs of the only case; empty for none.
    """

    recorded: Mapping[str, Any] = MappingProxyType({})

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
        baseline = self._plan.baseline
        if truth.natives:
            self._judged += [self._judge(baseline, truth.natives[0], truth.feeds, arbiter, bars, "baseline")]
        else:
            self._judged += [RuntimeReport(baseline.name, "skipped", 0, reason=f"{baseline.name} cannot run the file")]
        self._judged += self._plan.skipped
        if self.recorded and truth.bars:
            self._judged.append(self._recorded(truth))
        truth.natives.clear()  # large, and no longer needed
        yield self._judged[0]
        for runtime in () if truth.unjudged else self._plan.candidates:
            self._judged.append(self._report(runtime, truth.feeds, arbiter, bars))
            yield self._judged[-1]
        if not self._plan.candidates:
            self._unjudged.append("no runtime was judged: none of those asked for works here")

    def _recorded(self, truth: Truth) -> RuntimeReport:
        from .recorded import judge_run

        report = judge_run(self.recorded, truth.cases[0], truth.bars[0], self._file.precision)
        self._failures += [item for item in report.worst if not item.passed]
        return report

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
        return self._judge(runtime, results, feeds, arbiter, bars, "passed")

    def _compared(
        self, runtime: Runtime, results: Any, feeds: list[dict[str, Any]], arbiter: Any, bars: list[dict[str, Bar]]
    ) -> Judge:
        """Hold a runtime's results to the tolerances, which more random roundings may widen where they are missed."""
        from .judging import Judge

        while True:  # once more for each case that is missed narrowly
            judge = Judge(runtime.name, self._cases, self._iterations, bars, self._context.routed, self._file)
            judge.compare(arbiter[0][1], results[0][1])
            missed = [item for item in judge.comparisons if not item.passed]
            close = missed and all(item.severity <= _LUCK for item in missed)
            cases = {item.case for item in missed} - self._rounded_more
            if not close or not cases or self._plan.arbiter.name not in EXACT:
                return judge
            self._rounded_more |= cases
            places = [place for place, case in enumerate(self._cases) if case.name in cases]
            changed = self._roundings([feeds[place] for place in places], more=True)
            for index, place in enumerate(places):
                bars[place] = {
                    name: bar.widened([run[index][name] for run in changed]) for name, bar in bars[place].items()
                }

    def _judge(
        self,
        runtime: Runtime,
        results: Any,
        feeds: list[dict[str, Any]],
        arbiter: Any,
        bars: list[dict[str, Bar]],
        verdict: str,
    ) -> RuntimeReport:
        judge = self._compared(runtime, results, feeds, arbiter, bars)
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
            language=judge.language,
            classifier=judge.classifier,
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


def _worst(comparisons: list[Comparison]) -> tuple[Comparison, ...]:
    """Return the severest comparison of each output, in the order of the outputs."""
    worst: dict[str, Comparison] = {}
    for item in comparisons:
        if item.output not in worst or item.severity > worst[item.output].severity:
            worst[item.output] = item
    return tuple(worst.values())
