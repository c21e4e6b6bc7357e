"""Validation of decoding files: calls with a state in every runtime against one pass over everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import BadInputError, UsageError
from ..formats.state_spec import StateSpec
from ..onnx_model.model_file import ModelFile
from ..runtimes.reference_maths import reference_maths
from ..runtimes.runtime import RunContext, Runtime
from ..torch_model.torch_source import TorchSource
from ..torch_model.user_module import copied
from .exactness import check_exactness
from .planning import Plan
from .results import Comparison, DecodingReport
from .sequences import STEPS, STEPS_CASE, sequence_cases
from .stepping import stepping
from .truth import unusable
from .validation import Validation

if TYPE_CHECKING:
    from hsm_models.decoding import DecodingModel

    from .cases import Shape

# What PyTorch may differ from itself in float64, between steps and a full pass, relative to the largest logit.
_SAME = 1e-8


def prepare(
    file: ModelFile,
    source: TorchSource | None,
    context: RunContext,
    plan: Plan,
    progress: Callable[[str], None],
    inputs: Any,
    shapes: Sequence[Shape] | None,
    steps: int | None,
) -> tuple[DecodingValidation, list[str]]:
    """Return the validation of a decoding file, and notes on its cases; arguments as of `validate`.

    Raises:
        UsageError: inputs of the user's own, or sizes out of range.
        BadInputError: the state's description is damaged.
    """
    if inputs is not None:
        raise UsageError(
            "a decoding file takes no inputs of your own: its state belongs to them", "use shapes (--shape)"
        )
    state = file.state()
    cases, notes = sequence_cases(file, state, shapes, STEPS if steps is None else steps)
    if source is not None:
        source = decoding_source(source, state)
        context = replace(context, source=source.load)
    return DecodingValidation(file, source, context, cases, _stepping_plan(plan, state), progress), notes


def decoding_source(source: TorchSource, state: StateSpec) -> TorchSource:
    """Return the source as one that gives the decoding step of its model.

    Raises:
        UsageError: it does not decode.
        BadInputError: its state is not that of the file.
    """
    from hsm_models.decoding import DecodingModel

    from ..exporting.decoder_check import decoder_of

    names = tuple(tensor.name for tensor in state.tensors)

    def load() -> DecodingModel:
        model = source.load()
        own = set(decoder_of(model).state_entries())
        if own != set(names):
            odd = sorted(own ^ set(names))[0]
            raise BadInputError(
                f"{source.name} is not what the file was exported from: only one of them has the state {odd}"
            )
        return DecodingModel(model, state.last_logits, names)

    return replace(source, load=load)


def _stepping_plan(plan: Plan, state: StateSpec) -> Plan:
    """Return the plan with runtimes that take whole sequences; the arbiter makes one call of everything if it can."""
    return replace(
        plan,
        arbiter=stepping(plan.arbiter, state, whole=not state.last_logits),
        baseline=stepping(plan.baseline, state),
        candidates=tuple(stepping(runtime, state) for runtime in plan.candidates),
    )


class DecodingValidation(Validation):
    """One validation of a decoding file."""

    def _run_arbiter(self) -> tuple[Any, list[dict[str, Any]]]:
        arbiter, feeds = super()._run_arbiter()
        if self._context.source is not None:
            self._progress("running PyTorch's full pass in float64")
            outputs = [arbiter[0][1][i] for i in range(len(self._cases))]
            self._check_full_pass([np.asarray(output["logits"]) for output in outputs])
        return arbiter, feeds

    def _evaluator(self) -> Runtime:
        return stepping(super()._evaluator(), self._file.state())

    def _leave_out_refused(self, error: Exception) -> None:
        raise unusable(self._plan.arbiter, error) from error  # every case shows something that the others do not

    def _check_full_pass(self, decoded: list[Any]) -> None:
        """Hold the arbiter's own decoding to one pass over the sequences; padding is right of what counts."""
        import torch

        assert self._context.source is not None
        model = cast("DecodingModel", copied(self._context.source(), torch.float64))
        for case, logits in zip(self._cases, decoded, strict=True):
            with reference_maths(torch.float64):
                full = model.whole(torch.from_numpy(case.feed["tokens"])).numpy()
            computed = (logits != 0).any(-1)
            error = float(np.abs(full - logits)[computed].max(initial=0.0))
            if error > _SAME * float(np.abs(full).max()):
                self._problems.append(
                    f"PyTorch's own decoding departs from its full pass by {error:.3g} in float64 (case {case.name!r})"
                )

    def _decoding(self, runtime: Runtime, results: Any, arbiter: Any) -> DecodingReport | None:
        errors = self._step_errors(results, arbiter)
        quarter = max(1, len(errors) // 4)
        exact, inexact = self._exactness(runtime)
        self._problems += [f"{runtime.name}: {what}" for what in inexact]
        return DecodingReport(
            steps=len(errors),
            first_error=float(errors[:quarter].max(initial=0.0)),
            last_error=float(errors[-quarter:].max(initial=0.0)),
            exact=exact,
            inexact=inexact,
        )

    def _step_errors(self, results: Any, arbiter: Any) -> Any:
        """Return the largest error of each single step's logits, with the arbiter's experts."""
        index = next(i for i, case in enumerate(self._cases) if case.name == STEPS_CASE)
        own, exact = (np.asarray(item[0][1][index]["logits"], np.float64)[0] for item in (results, arbiter))
        return np.abs(own - exact).max(-1)

    def _exactness(self, runtime: Runtime) -> tuple[tuple[str, ...], tuple[str, ...]]:
        state = self._file.state()
        self._progress(f"forking and rolling back in {runtime.name}")
        tokens = next(spec for spec in self._file.inputs if spec.name == "tokens")
        return check_exactness(runtime, self._context, state, tokens.drawn[1] + 1)

    def _localise(self, runtime: Runtime, worst: Comparison) -> str | None:
        return None  # results of single operators are not put together again over the calls
