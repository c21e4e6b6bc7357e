"""Judge one runtime: a Polygraphy comparison function that holds it to the derived tolerances."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.bar import Bar
from ..comparison.predictions import ClassifierMetrics, ClassifierTally, LanguageMetrics, LanguageTally, scored_output
from ..onnx_model.model_file import ModelFile
from ..runtimes.routing import RoutedNode
from .cases import Case
from .flips import FlipCounter
from .results import Comparison
from .running import FORCED, FREE, Iteration

Array = NDArray[Any]


# In place of an array that a runtime does not give, such as an element of a shorter sequence.
_MISSING: Array = np.full((0, 0, 0), np.nan)


class Judge:
    """Compares a runtime's iterations with the arbiter's, in the order in which they were run.

    `polygraphy.comparator.Comparator.compare_accuracy` takes it as `compare_func` too.

    Args:
        runtime: the runtime's name.
        cases: the inputs.
        plan: the iterations in running order.
        bars: per case, the bar of every output.
        routed: the expert operators.
        file: the model.
    """

    def __init__(
        self,
        runtime: str,
        cases: Sequence[Case],
        plan: Sequence[Iteration],
        bars: Sequence[Mapping[str, Bar]],
        routed: Sequence[RoutedNode],
        file: ModelFile,
    ) -> None:
        self._runtime = runtime
        self._cases = cases
        self._plan = iter(plan)
        self._bars = bars
        self._routing_outputs = {node.logits for node in routed}
        self._file = file
        self._task, self._scored = scored_output(file)
        self._language, self._classifier = LanguageTally(), ClassifierTally()
        self.comparisons: list[Comparison] = []
        self.flips = FlipCounter(routed)
        self.seconds = 0.0

    def compare(self, arbiter: Sequence[Any], runtime: Sequence[Any]) -> None:
        """Compare all iterations. Polygraphy's own loop makes statistics of every output besides; strings have none."""
        for expected, actual in zip(arbiter, runtime, strict=True):
            self(expected, actual)

    @property
    def language(self) -> LanguageMetrics | None:
        """What the differences mean for a language model; None for other models."""
        return self._language.result() if self._task == "language_model" else None

    @property
    def classifier(self) -> ClassifierMetrics | None:
        """What they mean for a classifier; None for other models."""
        return self._classifier.result() if self._task == "classification" else None

    def unjudged(self) -> str:
        """Say of which output no case had an element that counts; "" when there is none."""
        names = dict.fromkeys(item.output for item in self.comparisons if item.output not in self._routing_outputs)
        judged = {item.output for item in self.comparisons if item.judged}
        blank = [name for name in names if name not in judged]
        return f"{self._runtime}: no element of {blank[0]} could be judged in any case" if blank else ""

    def __call__(self, arbiter: Any, runtime: Any) -> OrderedDict[str, bool]:
        iteration = next(self._plan)
        self.seconds += runtime.runtime
        expected, actual = dict(arbiter.items()), dict(runtime.items())
        rows = self._unflipped_rows(iteration, expected, actual)
        verdicts: OrderedDict[str, bool] = OrderedDict()
        for name, bar in self._bars[iteration.case].items():
            if name in self._routing_outputs and iteration.mode == FREE:
                continue  # downstream of a flip they legitimately differ; the forced runs hold them to account
            comparison = self._compare(iteration, name, actual.get(name, _MISSING), bar, rows)
            self.comparisons.append(comparison)
            verdicts[name] = comparison.passed
        return verdicts

    def _unflipped_rows(
        self, iteration: Iteration, expected: Mapping[str, Array], actual: Mapping[str, Array]
    ) -> NDArray[np.bool_] | None:
        """Return the batch rows (B,) whose outputs can be compared, None for all."""
        if not self._routing_outputs:
            return None
        if iteration.mode == FORCED:
            self.flips.measure_router(expected, actual)
            return None
        return self.flips.count(expected, actual)

    def _compare(
        self, iteration: Iteration, name: str, value: Array, bar: Bar, rows: NDArray[np.bool_] | None
    ) -> Comparison:
        case = self._cases[iteration.case]
        found = bar.judge(value, rows, self._file.precision)
        forced = ", experts as the arbiter chose" if iteration.mode == FORCED else ""
        if iteration.mode == FREE and name == self._scored and value.shape == bar.reference.shape:
            self._score(case, value, bar.reference)
        return Comparison(
            runtime=self._runtime,
            output=name,
            case=case.name,
            input_shapes=case.shapes,
            shape=tuple(bar.reference.shape),
            errors=found.errors,
            threshold=bar.threshold,
            reason=f"{found.reason}{forced}" if found.reason else None,
            mode=iteration.mode,
        )

    def _score(self, case: Case, value: Array, reference: Array) -> None:
        lengths = self._file.lengths_in(case.feed)
        if self._task == "language_model":
            tokens = self._file.scored_tokens
            text = case.feed.get(tokens.name) if case.text and tokens is not None else None
            self._language.add(reference, value, text, lengths)
        else:
            self._classifier.add(reference, value, case.labels, case.name)
