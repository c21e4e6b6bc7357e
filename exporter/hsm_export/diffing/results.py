"""What `diff` returns: how far apart runtimes are, at which node they part, and where every threshold comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..comparison.error import Errors
from ..comparison.predictions import ClassifierMetrics, LanguageMetrics
from ..comparison.result import ComparedOutput, ratio
from ..comparison.threshold import Threshold
from ..comparison.verdict import apart
from ..dtypes import BY_PRECISION, EXACT
from ..formats.result import Result

if TYPE_CHECKING:
    Precision = str
    Task = str
    Verdict = str
    Measure = str
    ElementType = str
else:  # what JSON may say
    Precision = Literal[tuple(BY_PRECISION)]
    Task = Literal["language_model", "classification", ""]
    Verdict = Literal["same", "differs", "not judged", "skipped", "failed"]
    Measure = Literal["output", "layer", "metric", "verdict"]
    ElementType = Literal[tuple(item.name for item in BY_PRECISION.values()) + EXACT]


@dataclass(frozen=True)
class LayerDiff(Result):
    """One tensor that one node of the graph writes, in one runtime and case.

    Attributes:
        index: position of the node in the graph, from 0.
        node, operator, domain, tensor: names; a segment that stands for a whole module has its path as `node`.
        runtime, case: names.
        shape: shape of the tensor.
        dtype: its type in the file: "float32", "float16" or "bfloat16".
        total: largest error against the reference.
        inherited: largest difference that the node's maths in float64 makes of the errors of its inputs.
        own: largest error of the node itself: against its maths in float64 on the very inputs that this runtime fed
            to it. None where the runtime does not show these inputs.
        amplification: relative inherited error over the largest relative error of the inputs; None without errors.
        threshold: what `own` may be; None where `own` is.
        errors: the own error in detail (the total one where `own` is None).
        reason: why the node is at fault; None when it is not.
    """

    index: int
    node: str
    operator: str
    domain: str
    tensor: str
    runtime: str
    case: str
    shape: tuple[int, ...]
    dtype: ElementType
    total: float
    inherited: float | None
    own: float | None
    amplification: float | None
    threshold: Threshold | None
    errors: Errors
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the node keeps to its threshold."""
        return self.reason is None

    @property
    def severity(self) -> float:
        """Own error in units of the threshold; 0 where there is none."""
        if self.own is None or self.threshold is None:
            return 0.0
        return ratio(self.own, self.threshold.value)


@dataclass(frozen=True)
class Culprit(Result):
    """The first node whose own error exceeds its threshold.

    Attributes:
        runtime: where; "onnx64" means the file itself: its maths is not the source model's.
        layer: the measurement.
        attributes: the node's attributes as text.
        input_shapes: shapes of the node's inputs by tensor name.
        consequences: how many later nodes exceed theirs too.
        repro: folder with an ONNX file of that one node, its real inputs and its right outputs; None when not written.
        command: the command that runs it; "" when not written.
        word: what kind of fault it is: "overflow", "cancellation", "approximation", "fusion", "quantisation", "state",
            "nondeterminism", "wrong kernel", or of the file itself "wrong maths".
    """

    runtime: str
    layer: LayerDiff
    attributes: dict[str, str]
    input_shapes: dict[str, tuple[int, ...]]
    consequences: int = 0
    repro: str | None = None
    command: str = ""
    word: str = ""

    @property
    def line(self) -> str:
        """One line that names the node, its operator, the worst element and both values."""
        item = self.layer
        index = ", ".join(map(str, item.errors.worst_index))
        value, reference = apart(item.errors.value, item.errors.reference, 6)
        return (
            f"{self.runtime}: {item.node} ({item.operator}) is the first node at fault: {item.tensor}[{index}] is "
            f"{value}, its maths on the same inputs gives {reference} ({item.reason})"
        )


@dataclass(frozen=True)
class RuntimeDiff(Result):
    """What one runtime did.

    Attributes:
        runtime: its name.
        verdict: "same", "differs", "not judged" (no element of an output could be compared), "skipped" or "failed".
        outputs: for every case and output, how far it is from the reference.
        layers: with `layers`, every node's tensors in graph order, for the case that shows most.
        culprit: the first node at fault, None when there is none or none was looked for.
        language, classifier: what the differences mean; None for other models.
        flips: expert choices that differ from the reference's, of `choices`; 0 of 0 without experts.
        reason: why it was skipped or failed, or what differs worst.
        notes: what a reader should know, such as "exposing tensors changes its numbers".
        seconds: time of the model's runs.
        peak_bytes: largest resident memory while it ran, None where it was not measured.
        noise: largest difference between repeated runs on the same inputs; None where nothing was repeated.
    """

    runtime: str
    verdict: Verdict
    outputs: tuple[ComparedOutput, ...] = ()
    layers: tuple[LayerDiff, ...] = ()
    culprit: Culprit | None = None
    language: LanguageMetrics | None = None
    classifier: ClassifierMetrics | None = None
    flips: int = 0
    choices: int = 0
    reason: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_bytes: int | None = None
    noise: float | None = None

    @property
    def worst(self) -> ComparedOutput | None:
        """The output nearest to, or furthest beyond, its threshold."""
        return max(self.outputs, key=lambda item: item.severity, default=None)


@dataclass(frozen=True)
class Bisection(Result):
    """The smallest set of nodes that makes an output fail.

    Attributes:
        good, bad: the two ways to run a node ("ort" and "ort-fused", "fp32" and "fp16", …): with every node run the
            good way the output passes, with every node the bad way it fails.
        nodes: (name, operator) of the nodes that, run the bad way, make it fail; leaving any out lets it pass.
        runs: runs of the whole graph that it took.
        candidates: nodes that could be to blame.
        error: error of the output with only `nodes` run the bad way.
        tolerance: the error up to which a run passes, above the noise of repeated runs.
        noise: largest difference between repeated runs of the same choice.
        reason: why nothing was found; None when something was.
        notes: nodes that give two results for the same inputs, and whether whole graphs confirm the answer.
    """

    good: str
    bad: str
    nodes: tuple[tuple[str, str], ...]
    runs: int
    candidates: int
    error: float
    tolerance: float
    noise: float
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Regression(Result):
    """Something that got worse since a baseline.

    Attributes:
        what: "output", "layer", "metric" or "verdict".
        name: which: runtime, then output, node or metric.
        before, after: errors or values.
    """

    what: Measure
    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Environment(Result):
    """Where it ran: versions by package, processor, cores, operating system, time in ISO 8601, and the command."""

    versions: dict[str, str]
    processor: str
    cores: int
    system: str
    time: str
    command: str


@dataclass(frozen=True)
class DiffResult(Result):
    """The outcome of `diff` on one file in several runtimes.

    Attributes:
        schema: version of the JSON form.
        model, sha256: the ONNX file.
        against: the source that it was exported from; None without one.
        precision: "fp32", "fp16" or "bf16".
        task: "language_model", "classification" or "".
        reference: the runtime whose numbers count as right.
        baseline: the runtime whose error, doubled, sets the outputs' thresholds.
        passed: no runtime differs, no rule of `fail_on` holds, and at least one runtime was compared.
        runtimes: a report per runtime.
        cases: the inputs in words.
        layer_case: the case that was compared layer by layer; "" without layers.
        bisections: what `bisect` found.
        regressions: what got worse since the baseline report.
        fail_on: rules that were asked for; violated: the sentences of those that hold.
        problems: failures that are not a number; unjudged: why something could not be judged; warnings, notes: what a
            reader should know.
        environment: where it ran.
        complete: False when a cap on time or memory ended it early; early: which one, and in which phase.
        seconds: time that all took.
    """

    model: str
    sha256: str
    against: str | None
    precision: Precision
    task: Task
    reference: str
    baseline: str
    passed: bool
    runtimes: tuple[RuntimeDiff, ...]
    cases: tuple[str, ...]
    environment: Environment
    layer_case: str = ""
    bisections: tuple[Bisection, ...] = ()
    regressions: tuple[Regression, ...] = ()
    fail_on: tuple[str, ...] = ()
    violated: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = True
    early: str = ""
    seconds: float = 0.0
    schema: Literal[1] = 1

    @property
    def outcome(self) -> str:
        """The one word of it: "passed", "failed", "not judged" or "ended early"."""
        wrong = self.problems or self.violated or any(item.verdict in ("differs", "failed") for item in self.runtimes)
        if self.passed or wrong:
            return "passed" if self.passed else "failed"
        return "not judged" if self.complete else "ended early"

    @property
    def culprits(self) -> tuple[Culprit, ...]:
        """The nodes at fault: the file's own first, then one a runtime."""
        found = [runtime.culprit for runtime in self.runtimes if runtime.culprit is not None]
        return tuple(sorted(found, key=lambda item: item.runtime != "onnx64"))

    @property
    def summary(self) -> str:
        """One line: the verdict, and the worst that happened."""
        if self.passed:
            return f"{self.model}: every runtime keeps the numbers of {self.reference}"
        if self.culprits:
            return self.culprits[0].line
        if self.outcome in ("not judged", "ended early"):
            return f"{self.outcome}: {self.early or (*self.unjudged, 'nothing was compared')[0]}"
        reasons = [runtime.reason for runtime in self.runtimes if runtime.verdict in ("differs", "failed")]
        return next((text for text in (*reasons, *self.problems, *self.violated) if text), "it did not pass")
