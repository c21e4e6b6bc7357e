"""Judge the outputs of one runtime, and say what the differences mean for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.bar import Bar
from ..comparison.error import distance
from ..comparison.result import ComparedOutput
from ..comparison.ulps import counted_in_ulps
from ..onnx_model.model_file import ModelFile
from ..runtimes.routing import LOGITS_SUFFIX
from ..validation.judging import Judge
from ..validation.results import Comparison
from ..validation.running import FREE, Iteration
from ..validation.truth import Truth
from .results import RuntimeDiff

Array = NDArray[Any]


class OutputJudge(Judge):
    """A Polygraphy comparison function that also keeps what a report shows of every output.

    Args:
        runtime: the runtime's name.
        file: the model.
        truth: what the runtime is held to.
        routed: the expert operators.
    """

    def __init__(self, runtime: str, file: ModelFile, truth: Truth, routed: Sequence[Any]) -> None:
        super().__init__(runtime, truth.cases, truth.iterations, truth.bars, routed, file)
        self.outputs: list[ComparedOutput] = []

    def report(self, seconds: float) -> RuntimeDiff:
        """Return what was seen."""
        failed = [item for item in self.outputs if not item.passed]
        worst = max(failed, key=lambda item: item.severity, default=None)
        flips = self.flips.result()
        reason = worst.line() if worst is not None else None
        if flips.unexcused and reason is None:
            reason = f"{flips.unexcused} of {flips.choices} expert choices differ by more than the router's error"
        verdict = "differs" if reason else "same"
        unjudged = self.unjudged()
        if unjudged and not reason:
            verdict, reason = "not judged", unjudged
        return RuntimeDiff(
            runtime=self._runtime,
            verdict=verdict,
            outputs=tuple(self.outputs),
            language=self.language,
            classifier=self.classifier,
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
        # Routing logits are layers' business, and choices of its own only matter where they lead elsewhere.
        own = not (name.endswith(LOGITS_SUFFIX) or (is_free and self._routing_outputs)) or not comparison.passed
        if own:
            self.outputs.append(self._output(iteration, comparison, value, bar, rows))
        return comparison

    def _output(
        self, iteration: Iteration, comparison: Comparison, value: Array, bar: Bar, rows: NDArray[np.bool_] | None
    ) -> ComparedOutput:
        own = ", its own experts" if iteration.mode == FREE and self._routing_outputs else ""
        errors = comparison.errors
        if value.shape == bar.reference.shape:
            errors = counted_in_ulps(errors, value, bar.reference, bar.counted(rows), self._file.precision)
        return ComparedOutput(
            runtime=self._runtime,
            output=comparison.output,
            case=comparison.case + own,
            input_shapes=comparison.input_shapes,
            shape=comparison.shape,
            errors=errors,
            threshold=bar.threshold,
            reason=comparison.reason,
        )


def noise_between(
    first: Mapping[str, Array],
    second: Mapping[str, Array],
    counted: Mapping[str, NDArray[np.bool_] | None] | None = None,
) -> float:
    """Return the largest difference between two runs on the same inputs; infinite where one is no number.

    Args:
        first, second: tensors by name.
        counted: which elements mean something; None, or no entry, for all.
    """
    return max((distance(np.asarray(array), np.asarray(second[name]), (counted or {}).get(name))
                for name, array in first.items()), default=0.0)  # fmt: skip
