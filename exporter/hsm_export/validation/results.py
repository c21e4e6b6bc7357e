"""What validation returns: typed results that say which numbers were compared and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass

from ..comparison.predictions import ClassifierMetrics, LanguageMetrics
from ..comparison.result import ComparedOutput
from ..formats.quantisation_plan import Budget, Loss
from ..formats.result import Result


@dataclass(frozen=True)
class Comparison(ComparedOutput):
    """One output of one runtime in one case, against the arbiter.

    Attributes:
        mode: "free", or "forced" when the experts that the arbiter chose were prescribed.
    """

    mode: str = "free"


@dataclass(frozen=True)
class Flips(Result):
    """Expert choices of a runtime that differ from the arbiter's.

    Attributes:
        choices: how many choices were compared (one per token, head and expert operator).
        excused: near ties: the arbiter's margin is below the error of the runtime's own logits.
        consequent: choices after an excused flip of an earlier operator in the same sequence.
        unexcused: the others; any makes validation fail.
        largest_margin: largest arbiter margin of an excused flip.
        router_error: largest error of a difference between two logits that decide one choice, forced runs.
    """

    choices: int
    excused: int
    consequent: int
    unexcused: int
    largest_margin: float
    router_error: float


@dataclass(frozen=True)
class DecodingReport(Result):
    """How one runtime decodes.

    Attributes:
        steps: single steps of the long case.
        first_error, last_error: largest error of the logits in the first and in the last quarter of these steps.
        exact: what is exact to the bit, of rows that stand still, forks and taking tokens back.
        inexact: a sentence for each of them that is not; any makes validation fail.
    """

    steps: int
    first_error: float
    last_error: float
    exact: tuple[str, ...]
    inexact: tuple[str, ...]


@dataclass(frozen=True)
class RuntimeReport(Result):
    """What one runtime did over all cases.

    Attributes:
        runtime: name of the runtime.
        verdict: "passed", "failed", "baseline" (its own error sets the tolerances), "not judged" or
            "skipped".
        cases: how many cases it ran.
        max_abs_error: largest absolute error of the model's own outputs over all cases but huge and tiny floats.
        worst: for each output the comparison nearest to (or furthest beyond) its tolerance.
        flips: expert choices that differ; None for models without experts.
        reason: why it was skipped or failed.
        departs: after a failure, at which operator the numbers first leave the tolerance.
        seconds: time that the runs took.
        decoding: how it decodes; None for files without a state.
        language, classifier: what the differences mean for the model's task, over all cases; None for other models.
    """

    runtime: str
    verdict: str
    cases: int
    max_abs_error: float = 0.0
    worst: tuple[Comparison, ...] = ()
    flips: Flips | None = None
    reason: str | None = None
    departs: str | None = None
    seconds: float = 0.0
    decoding: DecodingReport | None = None
    language: LanguageMetrics | None = None
    classifier: ClassifierMetrics | None = None


@dataclass(frozen=True)
class QuantisationReport(Result):
    """What quantising cost, against the budget.

    Attributes:
        budget: what the file was quantised to keep.
        loss: what it costs on these inputs, against the source in float32; None where nothing could measure it.
        inputs: what they are, in words.
        reason: why it is not kept, or could not be judged; "" when it is kept.
    """

    budget: Budget
    loss: Loss | None
    inputs: str
    reason: str = ""


@dataclass(frozen=True)
class ValidationResult(Result):
    """The outcome of `validate`.

    Attributes:
        model: the ONNX file.
        against: the checkpoint it was compared with; None when there is none.
        precision: "fp32", "fp16" or "bf16".
        arbiter: the runtime whose float64 numbers are the reference.
        baseline: the runtime in the file's precision whose error, doubled, is the tolerance.
        passed: everything was judged, and no runtime failed.
        runtimes: a report per runtime.
        failures: every comparison that failed.
        problems: failures that are not a number, one line each.
        unjudged: why something could not be judged: that is no pass, and nobody's fault.
        warnings: what the user should know though nothing failed because of it.
        notes: how the cases were chosen.
        cases: the cases in words.
        early: which cap ended it before everything was compared, and in which phase; "" when none did.
        quantisation: what quantising cost, of a file that `quantize` wrote and its source; None for others.
    """

    model: str
    against: str | None
    precision: str
    arbiter: str
    baseline: str
    passed: bool
    runtimes: tuple[RuntimeReport, ...]
    failures: tuple[Comparison, ...]
    problems: tuple[str, ...]
    unjudged: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    cases: tuple[str, ...]
    early: str = ""
    quantisation: QuantisationReport | None = None

    @property
    def worst_error(self) -> float:
        """Largest absolute error of any runtime but the baseline."""
        return max((r.max_abs_error for r in self.runtimes if r.runtime != self.baseline), default=0.0)

    @property
    def native_error(self) -> float:
        """Largest absolute error of the baseline."""
        return max((r.max_abs_error for r in self.runtimes if r.runtime == self.baseline), default=0.0)

    @property
    def summary(self) -> str:
        """Return one line: what failed worst, or that all is well."""
        if self.passed:
            return f"{self.model}: every runtime keeps the numbers of {self.arbiter}"
        if self.problems:
            return self.problems[0]
        if self.failures:
            return max(self.failures, key=lambda failure: failure.severity).line()
        return f"ended early: {self.early}" if self.early else f"not judged: {self.unjudged[0]}"

    @property
    def verdict(self) -> str:
        """The one word of it: "passed", "failed", "ended early" or "not judged"."""
        if self.passed or self.problems or self.failures:
            return "passed" if self.passed else "failed"
        return "ended early" if self.early else "not judged"
