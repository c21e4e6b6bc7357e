"""The function `diff`: outputs of every runtime, where they part, and what that means."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LimitError
from ..files import sha256
from ..limits import LimitReached, Limits
from ..process_memory import forget_peak, peak_bytes
from .environment import environment
from .options import DiffOptions
from .reporting.words import NO_RUNTIME
from .results import DiffResult, RuntimeDiff
from .rules import parse, violations

if TYPE_CHECKING:
    from torch import nn

    from ..runtimes.runtime import Runtime
    from ..validation.cases import Shape
    from .setup import Setup

Progress = Callable[[str], None]


def diff(
    model: str | Path,
    runtimes: Sequence[str] | None = None,
    *,
    against: str | Path | nn.Module | None = None,
    reference: str | Path | None = None,
    inputs: str | Path | Mapping[str, Any] | None = None,
    shapes: Sequence[Shape] | None = None,
    tokenizer: str | Path | None = None,
    options: DiffOptions | None = None,
    progress: Progress | None = None,
) -> DiffResult:
    """Say where runtimes of an ONNX file part, from which node on, and what that does to the model.

    Outputs are judged as `validate` judges them. Layer by layer, what a node inherits is told from what it gets wrong
    itself: its results are held to its own maths in float64 on the very inputs that the runtime fed to it.

    Args:
        model: the ONNX file, ours or any other.
        runtimes: names of the runtimes; None means every one that works here and takes seconds.
        against: the source: a checkpoint, `zoo:NAME` or a module; then the file itself is held to it, too.
        reference: the runtime whose numbers count as right, or an .npz file with them. None means the source in
            float64, or the file's own maths in float64 without one.
        inputs: an .npz file, a mapping of arrays, or text for a language model; None chooses.
        shapes: of chosen inputs: (batch, length), or sizes of dimensions by name.
        tokenizer: a tokenizer.json for text.
        options: what else to do.
        progress: receives the name of each phase.

    Raises:
        BadInputError: the file, the inputs, the baseline or the pair of file and source cannot be used.
        CheckpointError: the checkpoint cannot be used.
        UsageError: unknown runtimes or rules, or options that contradict each other.
        MissingDependencyError: a runtime that was asked for does not work on this machine.
    """
    options = options or DiffOptions()
    return diff_within(
        model,
        runtimes,
        against=against,
        reference=reference,
        inputs=inputs,
        shapes=shapes,
        tokenizer=tokenizer,
        options=options,
        progress=progress or (lambda phase: None),
        limits=Limits(options.max_seconds, options.max_bytes),
    )


def diff_within(
    model: str | Path,
    runtimes: Sequence[str] | None = None,
    *,
    against: str | Path | nn.Module | None,
    reference: str | Path | None,
    inputs: str | Path | Mapping[str, Any] | None,
    shapes: Sequence[Shape] | None,
    tokenizer: str | Path | None,
    options: DiffOptions,
    progress: Progress,
    limits: Limits,
    keep: Callable[[DiffResult], None] | None = None,
) -> DiffResult:
    """Do what `diff` does, within limits whose time has begun.

    Args:
        model, runtimes, against, reference, inputs, shapes, tokenizer, options, progress: as for `diff`.
        limits: the caps; those of `options` do not count.
        keep: receives what has been found so far, whenever there is more of it.
    """
    from ..onnx_model.model_file import open_model
    from ..onnx_model.spread_inputs import spread
    from .reporting.json_file import read_json
    from .setup import set_up

    parse(options.fail_on)
    if options.baseline is not None:
        read_json(options.baseline)  # a bad one is refused before the work
    progress("opening the model")
    setup = set_up(spread(open_model(model), inputs), runtimes, against, reference, inputs)
    run = Diff(setup, options, progress, limits, keep)
    run.measure(inputs, shapes, tokenizer)
    return finished(run.result(), options)


def finished(result: DiffResult, options: DiffOptions, early: str = "") -> DiffResult:
    """Apply rules and baseline to what was found.

    Args:
        result: what was found.
        options: of the diff.
        early: why it ended before everything was compared; "" when it did not.
    """
    from .baseline import check, compare
    from .reporting.json_file import read_json

    if early:
        early = f"{early}: what follows was not compared"
        notes = tuple(dict.fromkeys((*result.notes, early)))
        result = replace(result, early=early, complete=False, passed=False, notes=notes)
    if options.baseline is not None:
        old = read_json(options.baseline)
        result = replace(result, regressions=compare(result, old), notes=result.notes + check(result, old))
    rules = parse(options.fail_on)
    violated = violations(rules, result)
    named = tuple(rule.text for rule in rules)
    return replace(result, fail_on=named, violated=violated, passed=result.passed and not violated)


@dataclass
class Diff:
    """One diff: what its steps share.

    Args:
        setup: who takes part.
        options: what to do.
        progress: receives each phase.
        limits: the caps.
        keep: receives what has been found so far at the beginning of each phase; None for nobody.
    """

    setup: Setup
    options: DiffOptions
    progress: Progress
    limits: Limits
    keep: Callable[[DiffResult], None] | None = None
    reports: dict[str, RuntimeDiff] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    layer_case: str = ""
    bisections: tuple[Any, ...] = ()
    remarks: tuple[str, ...] = ()
    early: str = ""
    feeds: Any = None
    truth: Any = None

    def __post_init__(self) -> None:
        shown = self.progress

        def enter(phase: str) -> None:
            if self.keep is not None:
                self.keep(self.result(final=False))
            shown(phase)

        self.progress = enter

    @cached_property
    def _sha256(self) -> str:
        return sha256(self.setup.file.path)

    def measure(self, inputs: Any, shapes: Any, tokenizer: Any) -> None:
        """Run everything; what a cap cuts off is noted."""
        from ..validation.validation import Validation
        from .inputs.feeds import open_feeds

        setup = self.setup
        try:
            self.feeds = open_feeds(setup.file, inputs, call=self._call_reference, shapes=shapes, tokenizer=tokenizer)
            self.notes += self.feeds.notes
            validation = Validation(
                setup.file, setup.held_to, setup.context, [*self.feeds.cases], setup.plan, self._next_phase
            )
            self.truth = validation.truth()
            self.feeds = replace(self.feeds, cases=self.truth.cases)
            self.notes += self.truth.notes
            if not self.truth.unjudged:
                self._outputs()
                self._explain()
        except (LimitError, LimitReached) as error:
            self.early = f"{error.message}: what follows was not compared"
            self.notes.append(self.early)

    def _next_phase(self, phase: str) -> None:
        self.limits.check(phase)
        self.progress(phase)

    def result(self, *, final: bool = True) -> DiffResult:
        """Return the outcome, or what there is so far; rules and baseline are not applied yet."""
        setup, truth = self.setup, self.truth
        skipped = [RuntimeDiff(item.runtime, "skipped", reason=item.reason) for item in setup.plan.skipped]
        runtimes = (*self.reports.values(), *skipped)
        problems = truth.problems if truth else ()
        unjudged = [*truth.unjudged] if truth else []
        unjudged += [str(item.reason) for item in runtimes if item.verdict == "not judged"]
        if (
            final
            and not self.early
            and not unjudged
            and all(item.verdict in ("skipped", "failed") for item in runtimes)
        ):
            unjudged.append(NO_RUNTIME)
        plan = truth.plan if truth else setup.plan
        good = not problems and not self.early and not unjudged
        return DiffResult(
            model=str(setup.file.path),
            sha256=self._sha256,
            against=setup.source.name if setup.source else None,
            precision=setup.file.precision,
            task=setup.file.task,
            reference=plan.arbiter.name,
            baseline=plan.baseline.name,
            passed=good and not any(item.verdict == "failed" for item in runtimes),
            runtimes=runtimes,
            cases=tuple(case.name for case in self.feeds.cases) if self.feeds else (),
            environment=environment(self.options.command),
            layer_case=self.layer_case,
            bisections=self.bisections,
            problems=problems,
            unjudged=tuple(unjudged),
            warnings=self._warnings() if final else (),
            notes=(*self.notes, *sorted(setup.context.remarks)),
            complete=not self.early,
            early=self.early,
            seconds=time.monotonic() - self.limits.started,
        )

    def _call_reference(self, feed: Mapping[str, Any]) -> Mapping[str, Any]:
        from .layers.tapping import run_once

        masks = {node.mask: node.free_mask() for node in self.setup.context.routed}
        return run_once(self.setup.plan.arbiter, self.setup.context, {**feed, **masks})

    def _outputs(self) -> None:
        """Run every runtime over all inputs, one at a time."""
        from .polygraphy_files import polygraphy_folder

        if self.setup.shown:
            baseline = self.truth.plan.baseline
            self.reports[baseline.name] = (
                self._judged(baseline, self.truth.natives[0], 0.0)
                if self.truth.natives
                else RuntimeDiff(baseline.name, "failed", reason=f"{baseline.name} cannot run the file")
            )
        self.truth.natives.clear()
        if self.options.polygraphy is None:
            for runtime in self.truth.plan.candidates:
                self._run(runtime, None)
            return
        with polygraphy_folder(self.options.polygraphy) as folder:
            for case in self.feeds.cases:
                folder.add_inputs(case.feed)
            self._save(folder, self.truth.plan.arbiter.name, self.truth.arbiter)
            for runtime in self.truth.plan.candidates:
                self._run(runtime, folder)

    def _run(self, runtime: Runtime, folder: Any) -> None:
        """Run a runtime over all inputs, and once more over the last ones to see whether it repeats itself."""
        from ..validation.running import run

        self.limits.check(f"running {runtime.name}")
        self.progress(f"running {runtime.name}")
        feeds = self.truth.feeds
        start = time.monotonic()
        forget_peak()
        try:
            results = run(runtime, self.setup.context, [*feeds, feeds[-1]])
        except Exception as error:
            text = str(error).strip().splitlines()
            reason = f"{runtime.name} cannot run the file: {text[0] if text else type(error).__name__}"
            self.reports[runtime.name] = RuntimeDiff(runtime.name, "failed", reason=reason)
            return
        seconds, peak = time.monotonic() - start, None if runtime.own_process else peak_bytes()
        self.reports[runtime.name] = replace(self._judged(runtime, results, seconds), peak_bytes=peak)
        if folder is not None:
            self._save(folder, runtime.name, results)
            folder.add_accuracy(self.truth.plan.arbiter.name, runtime.name, self._allowed())

    def _judged(self, runtime: Runtime, results: Any, seconds: float) -> RuntimeDiff:
        from .outputs import OutputJudge, noise_between

        runs = results[0][1]
        noise = None
        if len(runs) > len(self.truth.feeds):
            bars = self.truth.bars[self.truth.iterations[-1].case]
            counted = {name: bar.comparable for name, bar in bars.items()}
            noise = noise_between(dict(runs[-2].items()), dict(runs[-1].items()), counted)
        judge = OutputJudge(runtime.name, self.setup.file, self.truth, self.setup.context.routed)
        judge.compare(self.truth.arbiter[0][1], runs[: len(self.truth.feeds)])
        report = replace(judge.report(seconds), noise=noise)
        notes = [*runtime.notes(self.setup.file.model)]
        if noise:
            notes.append(f"repeated runs differ by up to {noise:.3g}")
        return replace(report, notes=tuple(notes))

    def _save(self, folder: Any, name: str, results: Any) -> None:
        """Save the runs with the runtime's own choice of experts; those are the last ones."""
        hidden = {node.logits for node in self.setup.context.routed}
        count = len(self.feeds.cases)
        runs = list(results[0][1])[: len(self.truth.feeds)][-count:]
        for item in runs:
            folder.add_outputs(name, {key: value for key, value in item.items() if key not in hidden})

    def _allowed(self) -> list[dict[str, float]]:
        """Return, per case, the thresholds of the file's own outputs."""
        hidden = {node.logits for node in self.setup.context.routed}
        return [
            {name: bar.threshold.value for name, bar in bars.items() if name not in hidden} for bars in self.truth.bars
        ]

    def _explain(self) -> None:
        """Look at layers, bisect and generate, where asked for or needed."""
        from .explaining import Explanation

        failing = [name for name, item in self.reports.items() if item.verdict == "differs" or item.noise]
        wanted = self.options.layers is True or bool(failing or self.truth.problems)
        explanation = Explanation(self)
        if wanted and self.options.layers is not False:
            explanation.compare_layers()
        if self.options.bisect:
            explanation.bisect()
        self.remarks = tuple(explanation.remarks())
        steps = self._steps()
        if steps:
            explanation.generate(steps)

    def _steps(self) -> int:
        """Return how many tokens to generate; each is a pass over the whole sequence in every runtime."""
        from ..validation.cases import LARGE_WEIGHTS
        from .generating import STEPS

        if self.options.generate is not None:
            return self.options.generate
        if self.setup.file.weight_bytes() <= LARGE_WEIGHTS:
            return STEPS
        self.notes.append("no text was generated with a model of this size: ask for it with --generate")
        return 0

    def _warnings(self) -> tuple[str, ...]:
        """Say loudly when the source is not the one that the file was exported from, and which weights differ."""
        from .stale_engines import stale_engines

        recorded = self.setup.file.metadata.get("source_sha256", "")
        source = self.setup.source
        warnings = [*stale_engines(self.setup.file.path), *(self.truth.doubts if self.truth else ()), *self.remarks]
        if source is None:
            return tuple(warnings)
        is_other = recorded != "" and source.fingerprint not in (None, recorded)
        if is_other:
            warnings.append(
                f"{self.setup.file.path} was exported from a checkpoint with SHA-256 {recorded[:12]}…, {source.name} "
                f"has {str(source.fingerprint)[:12]}…: a stale file, or another checkpoint"
            )
        own = self.reports.get("onnx64")
        if is_other or (own is not None and own.verdict == "differs"):
            from .layers.source_weights import changed_weights, sentence

            changed, compared = changed_weights(self.setup.context)
            if changed:
                warnings.append(sentence(changed, compared, source.name))
        return tuple(warnings)
