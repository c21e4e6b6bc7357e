"""The function `validate`: open the file and its source, choose arbiter, baseline and cases, and run the validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .results import ValidationResult

if TYPE_CHECKING:
    from torch import nn

    from ..limits import Limits
    from ..onnx_model.model_file import ModelFile
    from ..runtimes.runtime import RunContext, Runtime
    from ..torch_model.torch_source import TorchSource
    from .cases import Case, Shape
    from .references import References

Progress = Callable[[str], None]


def validate(
    model: str | Path,
    against: str | Path | nn.Module | None = None,
    *,
    runtimes: Sequence[str] | None = None,
    inputs: str | Path | Mapping[str, Any] | None = None,
    check: str | Path | None = None,
    shapes: Sequence[Shape] | None = None,
    steps: int | None = None,
    states: Sequence[tuple[str, str]] = (),
    progress: Progress | None = None,
    limits: Limits | None = None,
    keep: Callable[[ValidationResult], None] | None = None,
) -> ValidationResult:
    """Run a file in several runtimes and hold each to tolerances derived from float64 and native precision.

    The arbiter is the PyTorch model in float64 or, without one, the file's own maths in float64. A runtime's error may
    be at most twice that of the baseline (PyTorch in the file's precision or, without it, onnx's own evaluator, both in
    several orders of summation) or twice what rounding every tensor at random changes, at least 4 eps(T)
    max|reference|. A decoding file reads sequences in pieces, with its state, against one pass over everything.
    Of a file that `quantize` wrote, the kernels are held to what the file means in float64, and what quantising cost
    against the source to the budget that the file carries.

    Args:
        model: the ONNX file.
        against: a checkpoint, `zoo:NAME`, or the module that was exported; None compares runtimes with each other.
        runtimes: names of the runtimes to judge; None means every one that works here and takes seconds.
        inputs: an .npz file or a mapping of input names to arrays, instead of the built-in cases.
        check: an .npz file with inputs and outputs of somebody's own run, such as the author's, whose outputs are held
            to the same tolerances as a runtime's.
        shapes: (batch, length) pairs of the built-in cases, instead of the awkward ones.
        steps: of a decoding file, single steps of its longest case (default 64).
        states: of a decoding file of others, (input, output) pairs that carry its state; without any, those that show
            in names and shapes of a language model are checked.
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
    from ..onnx_model.quantisation_record import plan_in
    from ..onnx_model.spread_inputs import spread
    from ..torch_model.torch_source import open_source
    from .quantised import with_loss

    progress = _checked(progress, limits)
    progress("opening the model")
    file = spread(open_model(model), inputs)
    recorded: Mapping[str, Any] = {}
    if check is not None:
        from .recorded import read_run

        if inputs is not None:
            raise UsageError("inputs and a recorded run contradict each other", "give one of them")
        inputs, recorded = read_run(file, check)
    source = open_source(against) if against is not None else None
    quantised = plan_in(file)
    judged = file, source if quantised is None else None
    result = _validated(*judged, runtimes, inputs, shapes, steps, states, progress, keep, recorded)
    return result if quantised is None else with_loss(result, file, quantised, source, inputs, progress)


def _validated(
    file: ModelFile,
    source: TorchSource | None,
    runtimes: Sequence[str] | None,
    inputs: str | Path | Mapping[str, Any] | None,
    shapes: Sequence[Shape] | None,
    steps: int | None,
    states: Sequence[tuple[str, str]],
    progress: Progress,
    keep: Callable[[ValidationResult], None] | None,
    recorded: Mapping[str, Any],
) -> ValidationResult:
    """Judge the runtimes; arguments as of `validate`, the file and its source opened."""
    from ..runtimes.routing import instrument
    from ..runtimes.runtime import RunContext
    from .planning import make_plan, requested
    from .validation import Validation

    names = requested(runtimes, source is not None)
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
    whole = Validation(file, source, context, cases, plan, progress)
    whole.recorded = recorded
    result = whole.result(notes, keep)
    if file.metadata or (source is not None and not states) or result.early:
        return result
    from .foreign_decoding import decoded, examine, with_decoding

    found = examine(file, context, states, progress)
    pieces = decoded(file, context, plan, found.reading, progress) if found.reading is not None else None
    return with_decoding(result, found, pieces)


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
    from ..torch_model.torch_source import open_source
    from .planning import make_plan
    from .validation import Validation

    source = open_source(against) if against is not None else None
    if source is not None and file.metadata.get("decode") == "1":
        from .decoding import decoding_source

        source = decoding_source(source, file.state())
    instrumented, routed = instrument(file.model)
    load = source.load if source is not None else None
    context = RunContext(instrumented, file.path.parent, file.precision, load, routed)
    plan = make_plan(("torch",), file, source)
    return Validation(file, source, context, cases, plan, progress or (lambda phase: None)).references()


def _checked(progress: Progress | None, limits: Limits | None) -> Progress:
    """Return what is told of phases; it raises where a cap is reached."""

    def enter(phase: str) -> None:
        if limits is not None:
            limits.check(phase)
        if progress is not None:
            progress(phase)

    return enter


def _call(runtime: Runtime, context: RunContext, feed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run a file once, to see whether it takes these inputs, and return its outputs."""
    from .running import run

    masks = {node.mask: node.free_mask() for node in context.routed}
    return dict(run(runtime, context, [{**feed, **masks}])[0][1][0].items())


def _cases(
    file: ModelFile,
    inputs: str | Path | Mapping[str, Any] | None,
    shapes: Sequence[Shape] | None,
    call: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> tuple[list[Case], list[str]]:
    from .cases import user_case
    from .tried_cases import chosen_cases

    if inputs is not None:
        if shapes:
            raise UsageError("inputs and shapes contradict each other", "give one of them")
        return [user_case(file, inputs)], []
    return chosen_cases(file, call, shapes)
