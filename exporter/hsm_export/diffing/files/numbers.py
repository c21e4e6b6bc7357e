"""What two ONNX files make of equal inputs, and whether rounding explains the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from ...comparison.bar import Bar
from ...comparison.result import ComparedOutput
from ...comparison.threshold import coarser
from ...comparison.ulps import counted_in_ulps
from ...comparison.verdict import judge
from ...errors import BadInputError, first_line
from ..inputs.feeds import Feeds, open_feeds

if TYPE_CHECKING:
    from ...onnx_model.model_file import ModelFile
    from ...runtimes.routing import RoutedNode
    from ...runtimes.runtime import RunContext, Runtime
    from ...validation.cases import Case, Shape

Array = NDArray[Any]
Outputs = Sequence[Mapping[str, Array]]

DEFAULT_RUNTIMES = ("ort",)
_EXACT = "onnx64"
_MEASURED = "onnx-reference"


@dataclass(frozen=True)
class Numbers:
    """How far apart the outputs of two files are.

    Attributes:
        outputs: per runtime of the new file, case and output, against the old file's maths in float64; "onnx64" is
            the new file's maths in float64: what is off there is no matter of rounding in a runtime.
        incomparable: why nothing was compared; None when something was.
        notes: what a reader should know.
    """

    outputs: tuple[ComparedOutput, ...] = ()
    incomparable: str | None = None
    notes: tuple[str, ...] = ()


def compare_numbers(
    old: ModelFile,
    new: ModelFile,
    *,
    runtimes: Sequence[str] = DEFAULT_RUNTIMES,
    inputs: str | Path | Mapping[str, Any] | None = None,
    shapes: Sequence[Shape] | None = None,
    tokenizer: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Numbers:
    """Run both files on equal inputs, and compare every output that both have.

    The old file's own maths in float64 counts as right. An output may be off by what rounding explains in either file:
    the larger of both files' tolerances, each against its own maths in float64; see docs/validation.md. Where both
    choose experts, all runs use the old file's choice.

    Args:
        old, new: the opened files.
        runtimes: what runs the new file, beside its maths in float64.
        inputs, shapes, tokenizer: as of `feeds.open_feeds`.
        progress: is called with the name of each phase.

    Raises:
        UsageError: an unknown runtime, or options that contradict each other.
        BadInputError: the inputs cannot be used, or the old file does not run.
        MissingDependencyError: a runtime does not work here.
    """
    from ...validation.planning import requested

    report = progress or (lambda phase: None)
    names = requested(tuple(name for name in runtimes if name != _EXACT), has_source=False) or ()
    reason = _other_inputs(old, new)
    if reason:
        return Numbers(incomparable=reason)
    sides = _Side.of(old), _Side.of(new)
    report("choosing inputs")
    feeds = open_feeds(_narrower(old, new), inputs, call=sides[0].call, shapes=shapes, tokenizer=tokenizer)
    return _compared(sides, feeds, names, report)


@dataclass(frozen=True)
class _Side:
    """One of the files, instrumented."""

    file: ModelFile
    context: RunContext
    routed: tuple[RoutedNode, ...]

    @staticmethod
    def of(file: ModelFile) -> _Side:
        from ...runtimes.routing import instrument
        from ...runtimes.runtime import RunContext

        model, routed = instrument(file.model)
        return _Side(file, RunContext(model, file.path.parent, file.precision, routed=routed), routed)

    def call(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        """Make one call in float64."""
        return self.run(_EXACT, [feed])[0]

    def run(self, runtime: str | Runtime, feeds: Sequence[Mapping[str, Array]], choices: Any = None) -> Outputs:
        """Run all feeds; `choices` (a sequence of masks per feed) prescribes the experts."""
        from ...runtimes import get
        from ...validation.running import run

        runtime = get(runtime) if isinstance(runtime, str) else runtime
        results = run(runtime, self.context, self._masked(feeds, choices))
        return [dict(item.items()) for item in results[0][1]]

    def _masked(self, feeds: Sequence[Mapping[str, Array]], choices: Any) -> list[dict[str, Array]]:
        """Return the feeds with the masks that prescribe the experts."""
        masked = []
        for index, feed in enumerate(feeds):
            masks = choices[index] if choices is not None else [node.free_mask() for node in self.routed]
            masked.append({**feed, **{node.mask: mask for node, mask in zip(self.routed, masks, strict=True)}})
        return masked

    def choices(self, outputs: Outputs) -> list[list[NDArray[np.bool_]]]:
        """Return the experts that a run chose, per case and operator."""
        return [[node.selection(np.asarray(output[node.logits])) for node in self.routed] for output in outputs]

    def bars(self, cases: Sequence[Case], choices: Any) -> tuple[Outputs, list[dict[str, Bar]]]:
        """Return the file's own numbers in float64, and how far off rounding may be from them."""
        from ...runtimes import get
        from ...validation.planning import baseline_contexts, rounding_contexts
        from ...validation.reference import bars
        from ...validation.running import rounded_runs

        feeds = [case.feed for case in cases]
        exact = self.run(_EXACT, feeds, choices)
        measured = get(_MEASURED)
        natives = [
            replace(self, context=context).run(measured, feeds, choices)
            for context in baseline_contexts(measured, self.context, self.file)
        ]
        contexts = rounding_contexts(self.context, self.file)
        rounded = list(rounded_runs(get(_EXACT), contexts, self._masked(feeds, choices)))
        return exact, bars(self.file, cases, exact, natives, rounded=rounded, native_by=_MEASURED)


def _compared(sides: tuple[_Side, _Side], feeds: Feeds, names: Sequence[str], report: Callable[[str], None]) -> Numbers:
    old, new = sides
    cases = feeds.cases
    notes = list(feeds.notes)
    shared = len(old.routed) == len(new.routed)
    try:
        report("running the old file in float64")
        choices = old.choices(old.run(_EXACT, [case.feed for case in cases])) if shared and old.routed else None
        exact, allowed = old.bars(cases, choices)
    except Exception as error:
        raise BadInputError(f"{old.file.path} does not run: {first_line(error)}", "validate it first") from error
    try:
        report("running the new file in float64")
        own, own_allowed = new.bars(cases, choices)
    except Exception as error:  # runtimes raise what they like
        own, own_allowed = None, allowed
        notes.append(f"{_EXACT} cannot run {new.file.path} ({first_line(error)}): only its runtimes are compared")
    if old.routed:
        notes.append("experts as the old file chooses them" if shared else "each file chooses its own experts")
    compared: list[ComparedOutput] = []
    if own is not None:
        compared += _outputs(_EXACT, cases, exact, own, allowed, own_allowed, sides)
    for name in names:
        report(f"running the new file in {name}")
        try:
            values = new.run(name, [case.feed for case in cases], choices)
        except Exception as error:
            raise BadInputError(f"{name} cannot run {new.file.path}: {first_line(error)}") from error
        compared += _outputs(name, cases, exact, values, allowed, own_allowed, sides)
    missing = sorted(set(own_allowed[0]) ^ set(allowed[0]))
    notes += [f"only one file has the output {name}" for name in missing if not name.endswith(".routing_logits")]
    if not compared:
        return Numbers(incomparable="the files have no output in common", notes=tuple(notes))
    return Numbers(tuple(compared), notes=tuple(notes))


def _outputs(
    runtime: str,
    cases: Sequence[Case],
    exact: Outputs,
    values: Outputs,
    allowed: Sequence[Mapping[str, Bar]],
    own_allowed: Sequence[Mapping[str, Bar]],
    sides: tuple[_Side, _Side],
) -> Iterator[ComparedOutput]:
    hidden = {node.logits for side in sides for node in side.routed}
    precision = coarser(sides[0].file.precision, sides[1].file.precision)
    for index, case in enumerate(cases):
        for name, bar in allowed[index].items():
            if name in hidden or name not in own_allowed[index]:
                continue
            value = np.asarray(values[index][name])
            yield _output(runtime, name, case, value, exact[index][name], (bar, own_allowed[index][name]), precision)


def _output(
    runtime: str, name: str, case: Case, value: Array, reference: Array, bars: tuple[Bar, Bar], precision: str
) -> ComparedOutput:
    # Only where the inputs are huge or tiny may the new file's type overflow by itself.
    counted = bars[0].comparable if case.ordinary else bars[0].comparable & bars[1].comparable
    limits = max((bar.threshold for bar in bars), key=lambda item: item.value)
    found = judge(value, reference, limits.value, counted, precision)
    errors = found.errors
    if value.shape == reference.shape:
        errors = counted_in_ulps(errors, value, reference, counted, precision)
    return ComparedOutput(runtime, name, case.name, case.shapes, value.shape, errors, limits, found.reason)


def _other_inputs(old: ModelFile, new: ModelFile) -> str | None:
    """Say why the files cannot be fed the same; None when they can."""
    before, after = ({spec.name: spec for spec in file.inputs} for file in (old, new))
    if before.keys() != after.keys():
        return f"the inputs are {', '.join(sorted(before)) or 'none'} and {', '.join(sorted(after)) or 'none'}"
    for name, spec in before.items():
        other = after[name]
        if spec.is_integer != other.is_integer:
            return f"input {name} holds {spec.dtype} in one file, {other.dtype} in the other"
        sizes = zip(spec.shape, other.shape, strict=False)
        if len(spec.shape) != len(other.shape) or any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes
        ):
            return f"input {name} has shape {list(spec.shape)} in one file, {list(other.shape)} in the other"
    return None


def _narrower(old: ModelFile, new: ModelFile) -> ModelFile:
    """Return the old file with inputs that the new one takes too: fixed sizes, and the smaller ranges."""
    after = {spec.name: spec for spec in new.inputs}
    specs = []
    for spec in old.inputs:
        other = after[spec.name]
        sizes = zip(spec.shape, other.shape, strict=True)
        shape = tuple(b if isinstance(b, int) and not isinstance(a, int) else a for a, b in sizes)
        highs = [high for high in (spec.high, other.high) if high is not None]
        specs.append(structs.replace(spec, shape=shape, high=min(highs, default=None)))
    return replace(old, inputs=tuple(specs))
