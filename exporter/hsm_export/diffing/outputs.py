"""Judge the outputs of one runtime, and say what the differences mean for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import EPSILON
from ..onnx_model.model_file import ModelFile
from ..runtimes.routing import LOGITS_SUFFIX
from ..validation.api import Truth
from ..validation.judging import Judge
from ..validation.measures import FACTOR, FLOOR
from ..validation.reference import Bar
from ..validation.results import Comparison
from ..validation.running import FREE, Iteration
from .inputs.feeds import Feed, token_input
from .measuring import errors
from .metrics import ClassifierTally, LanguageTally, scored_output
from .results import OutputDiff, RuntimeDiff, Threshold

Array = NDArray[Any]


class OutputJudge(Judge):
    """A Polygraphy comparison function that also keeps what a report shows of every output.

    Args:
        runtime: the runtime's name.
        file: the model.
        feeds: the inputs, in the order of the cases.
        truth: what the runtime is held to.
        routed: the expert operators.
    """

    def __init__(
        self, runtime: str, file: ModelFile, feeds: Sequence[Feed], truth: Truth, routed: Sequence[Any]
    ) -> None:
        cases = [feed.case for feed in feeds]
        super().__init__(runtime, cases, truth.iterations, truth.bars, routed, file.task == "language_model")
        self._file = file
        self._feeds = feeds
        self._native_by = truth.plan.baseline.name
        self._task, self._scored = scored_output(file)
        self._language, self._classifier = LanguageTally(), ClassifierTally()
        self.outputs: list[OutputDiff] = []

    def report(self, seconds: float) -> RuntimeDiff:
        """Return what was seen."""
        failed = [item for item in self.outputs if not item.passed]
        worst = max(failed, key=lambda item: item.severity, default=None)
        flips = self.flips.result()
        reason = describe(worst) if worst is not None else None
        if flips.unexcused and reason is None:
            reason = f"{flips.unexcused} of {flips.choices} expert choices differ by more than the router's error"
        return RuntimeDiff(
            runtime=self._runtime,
            verdict="differs" if reason else "same",
            outputs=tuple(self.outputs),
            language=self._language.result() if self._task == "language_model" else None,
            classifier=self._classifier.result() if self._task == "classification" else None,
            flips=flips.excused + flips.consequent + flips.unexcused,
            choices=flips.choices,
            reason=reason,
            seconds=seconds,
        )

    def _compare(
        self, iteration: Iteration, name: str, value: Array, bar: Bar, rows: NDArray[np.bool_] | None
    ) -> Comparison:
        comparison = super()._compare(iteration, name, value, bar, rows)
        is_free = iteration.mode == FREE
        if is_free and name == self._scored and value.shape == bar.reference.shape:
            self._score(iteration.case, value, bar.reference)
        # Routing logits are layers' business, and choices of its own only matter where they lead elsewhere.
        own = not (name.endswith(LOGITS_SUFFIX) or (is_free and self._routing_outputs)) or not comparison.passed
        if own:
            self.outputs.append(self._output(iteration, comparison, value, bar, rows))
        return comparison

    def _score(self, case: int, value: Array, reference: Array) -> None:
        feed = self._feeds[case]
        lengths = feed.case.feed.get("lengths")
        if self._task == "language_model":
            tokens = token_input(self._file)
            text = feed.case.feed[tokens.name] if feed.text and tokens is not None else None
            self._language.add(reference, value, text, lengths)
        else:
            self._classifier.add(reference, value, feed.labels, feed.case.name)

    def _output(
        self, iteration: Iteration, comparison: Comparison, value: Array, bar: Bar, rows: NDArray[np.bool_] | None
    ) -> OutputDiff:
        comparable = bar.comparable
        if rows is not None and rows.shape[0] == value.shape[0]:
            comparable = comparable & rows.reshape((-1,) + (1,) * (value.ndim - 1))
        shown = value if value.shape == bar.reference.shape else np.full(bar.reference.shape, np.nan)
        measured = errors(shown, bar.reference, comparable, self._file.precision)
        if value.shape != bar.reference.shape:
            measured = replace(measured, max_abs=float("inf"))
        forced = ", its own experts" if iteration.mode == FREE and self._routing_outputs else ""
        floor = FLOOR * EPSILON[self._file.precision] * measured.scale
        native = FACTOR * bar.native_error
        return OutputDiff(
            runtime=self._runtime,
            output=comparison.output,
            case=comparison.case + forced,
            input_shapes=comparison.input_shapes,
            shape=tuple(bar.reference.shape),
            errors=measured,
            threshold=Threshold(bar.tolerance, native, self._native_by, 0.0, floor),
            reason=comparison.reason,
        )


def describe(item: OutputDiff) -> str:
    """Return one line that names the output, the worst element and both values."""
    index = ", ".join(map(str, item.errors.worst_index))
    return (
        f"{item.runtime}: output {item.output}[{index}] is {item.errors.value:.6g}, should be "
        f"{item.errors.reference:.6g} ({item.reason}; case {item.case!r})"
    )


def noise_between(
    first: Mapping[str, Array],
    second: Mapping[str, Array],
    counted: Mapping[str, NDArray[np.bool_] | None] | None = None,
) -> float:
    """Return the largest difference between two runs on the same inputs; infinite where one is not a number.

    Args:
        first, second: tensors by name.
        counted: which elements mean something; None, or no entry, for all.
    """
    largest = 0.0
    for name, array in first.items():
        a, b = np.asarray(array), np.asarray(second[name])
        if a.shape != b.shape:
            return float("inf")
        mask = (counted or {}).get(name)
        if mask is not None:
            a, b = a[mask], b[mask]
        if a.dtype.kind in "fV" and not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            with np.errstate(invalid="ignore"):
                gaps = np.abs(a.astype(np.float64) - b.astype(np.float64))
            largest = max(largest, float(np.where(np.isnan(gaps), np.inf, gaps).max()))
    return largest
