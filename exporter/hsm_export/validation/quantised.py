"""Files that `quantize` wrote: what quantising cost against the source is held to the budget that the file carries.

The kernels are judged apart from it, against what the quantised file means in float64, by tolerances as for any file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BadInputError
from ..formats.quantisation_plan import QuantisationPlan
from ..onnx_model.model_file import ModelFile
from .results import QuantisationReport, ValidationResult

if TYPE_CHECKING:
    from ..torch_model.torch_source import TorchSource

# Of the text that a model writes itself here: not that of the search.
_SEED = 21


def with_loss(
    result: ValidationResult,
    file: ModelFile,
    plan: QuantisationPlan,
    source: TorchSource | None,
    inputs: str | Path | Mapping[str, Any] | None,
    progress: Callable[[str], None],
) -> ValidationResult:
    """Return a validation of a quantised file's kernels with a judgement of what quantising cost.

    Args:
        result: the validation, without the source.
        file: the quantised file.
        plan: what it carries.
        source: the PyTorch model; without it nothing says what quantising cost, which is a warning.
        inputs: what the caller gave; None lets a language model write text, and draws inputs at random.
        progress: receives the name of each phase.
    """
    if source is None:
        kept = [item for item in result.warnings if not item.startswith("no checkpoint")]
        unsaid = (
            f"no checkpoint given: the kernels are held to what the quantised file means in float64; whether it keeps "
            f"{plan.budget.text} is not judged"
        )
        return replace(result, warnings=(unsaid, *kept))
    progress("measuring what quantising cost")
    report = _report(file, plan, source, inputs)
    warnings = [item for item in result.warnings if not item.startswith("no checkpoint")]
    recorded = file.metadata.get("source_sha256")
    if source.fingerprint and recorded and recorded != source.fingerprint:
        warnings.insert(0, f"{source.name} is NOT the checkpoint that {file.path} was exported from")
    result = replace(result, against=source.name, quantisation=report, warnings=tuple(warnings))
    if not report.reason:
        return result
    if report.loss is None:
        return replace(result, passed=False, unjudged=(*result.unjudged, report.reason))
    return replace(result, passed=False, problems=(*result.problems, report.reason))


def _report(
    file: ModelFile, plan: QuantisationPlan, source: TorchSource, inputs: str | Path | Mapping[str, Any] | None
) -> QuantisationReport:
    from ..comparison.predictions import scored_output
    from ..quantisation.calibration import calibrate
    from ..quantisation.losses import Reference
    from ..quantisation.sessions import judged_outputs, open_session, run_of

    text = scored_output(file)[0] == "language_model" and file.decodes
    if inputs is None and not text and not plan.calibration.startswith("inputs drawn"):
        reason = f"whether it keeps {plan.budget.text} is not judged: it was calibrated with {plan.calibration}"
        return QuantisationReport(plan.budget, None, "", f"{reason}; give such inputs with --inputs")
    calibration = calibrate(file, inputs, None, seed=_SEED)
    scored = scored_output(file)[1]
    outputs = judged_outputs(file.model, scored)
    tokens = file.scored_tokens
    named = tokens.name if tokens is not None and calibration.texts else ""
    feeds = (*calibration.searched, *calibration.held_out)
    try:
        reference = Reference.measured(_source_run(file, source, outputs), feeds, scored, named)
    except Exception as error:  # the user's code raises what it likes
        raise BadInputError(
            f"{source.name} cannot run the inputs: {error}", "is it the checkpoint of the file?"
        ) from error
    session = open_session(file.model, file.path.parent)
    loss = reference.loss(run_of(session, outputs), plan.budget.metric)
    value = 1.0 - loss.top1 if plan.budget.metric == "top1" else loss.value(plan.budget.metric)
    words = loss.words(plan.budget.metric)
    broken = f"quantising breaks {plan.budget.text}: {words} on {calibration.words}" if value > plan.budget.harm else ""
    if np.isnan(value):
        return QuantisationReport(
            plan.budget, None, calibration.words, f"{plan.budget.text} is not judged: no such loss"
        )
    return QuantisationReport(plan.budget, loss, calibration.words, broken)


def _source_run(
    file: ModelFile, source: TorchSource, outputs: list[str]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function that runs the source in float32 on a feed of the file."""
    from ..runtimes import get
    from ..runtimes.runtime import RunContext
    from .decoding import decoding_source
    from .running import run

    if file.decodes:
        source = decoding_source(source, file.state())
    context = RunContext(file.model, file.path.parent, "fp32", source.load)

    def call(feed: Mapping[str, Any]) -> dict[str, Any]:
        found = run(get("torch"), context, [dict(feed)])[0][1][0]
        return {name: np.asarray(found[name]) for name in outputs}

    return call
