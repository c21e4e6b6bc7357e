"""Judge one runtime: a Polygraphy comparison function that holds it to the derived tolerances."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtimes.routing import RoutedNode
from .cases import Case
from .flips import FlipCounter
from .measures import kl_divergence, measure, top1_agreement
from .reference import Bar
from .results import Comparison
from .running import FORCED, FREE, Iteration

Array = NDArray[Any]


class Judge:
    """Compares a runtime's iterations with the arbiter's, in the order in which they were run.

    Pass it to `polygraphy.comparator.Comparator.compare_accuracy` as `compare_func`.

    Args:
        runtime: the runtime's name.
        cases: the inputs.
        plan: the iterations in running order.
        bars: per case, the bar of every output.
        routed: the expert operators.
        language_model: whether the outputs are logits over a vocabulary.
    """

    def __init__(
        self,
        runtime: str,
        cases: Sequence[Case],
        plan: Sequence[Iteration],
        bars: Sequence[Mapping[str, Bar]],
        routed: Sequence[RoutedNode],
        language_model: bool,
    ) -> None:
        self._runtime = runtime
        self._cases = cases
        self._plan = iter(plan)
        self._bars = bars
        self._routing_outputs = {node.logits for node in routed}
        self._language_model = language_model
        self.comparisons: list[Comparison] = []
        self.flips = FlipCounter(routed)
        self.seconds = 0.0

    def __call__(self, arbiter: Any, runtime: Any) -> OrderedDict[str, bool]:
        iteration = next(self._plan)
        self.seconds += runtime.runtime
        expected, actual = dict(arbiter.items()), dict(runtime.items())
        rows = self._unflipped_rows(iteration, expected, actual)
        verdicts: OrderedDict[str, bool] = OrderedDict()
        for name, bar in self._bars[iteration.case].items():
            if name in self._routing_outputs and iteration.mode == FREE:
                continue  # downstream of a flip they legitimately differ; the forced runs hold them to account
            comparison = self._compare(iteration, name, actual[name], bar, rows)
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
        blank = Comparison(
            runtime=self._runtime,
            output=name,
            case=case.name,
            input_shapes=case.shapes,
            mode=iteration.mode,
            max_abs_error=0.0,
            mean_abs_error=0.0,
            max_rel_error=0.0,
            mean_rel_error=0.0,
            cosine=1.0,
            native_error=bar.native_error,
            tolerance=bar.tolerance,
            worst_index=(0,) * bar.reference.ndim,
            value=float("nan"),
            reference=float("nan"),
        )
        if value.shape != bar.reference.shape:
            return replace(blank, reason=f"its shape is {value.shape} instead of {bar.reference.shape}")
        comparable = bar.comparable
        if rows is not None and rows.shape[0] == value.shape[0]:
            comparable = comparable & rows.reshape((-1,) + (1,) * (value.ndim - 1))
        comparison = _measured(blank, value, bar, comparable)
        are_logits = name not in self._routing_outputs and not name.startswith("present.")
        if self._language_model and are_logits and comparison.passed:
            comparison = _with_distributions(comparison, value, bar.reference, comparable)
        return comparison


def _measured(blank: Comparison, value: Array, bar: Bar, comparable: NDArray[np.bool_]) -> Comparison:
    """Fill in the errors and the verdict."""
    broken = comparable & ~np.isfinite(value)
    if broken.any():
        index = tuple(int(i) for i in np.argwhere(broken)[0])
        reason = "neither the arbiter nor native precision has a NaN or infinity there"
        return _at(replace(blank, reason=reason, max_abs_error=float("inf")), value, bar, index)
    errors = measure(value, bar.reference, comparable)
    missed = f"error {errors.max_abs:.3g}, tolerance {bar.tolerance:.3g}"
    filled = replace(
        blank,
        max_abs_error=errors.max_abs,
        mean_abs_error=errors.mean_abs,
        max_rel_error=errors.max_rel,
        mean_rel_error=errors.mean_rel,
        cosine=errors.cosine,
        reason=missed if errors.max_abs > bar.tolerance else None,
    )
    return _at(filled, value, bar, errors.worst_index)


def _at(comparison: Comparison, value: Array, bar: Bar, index: tuple[int, ...]) -> Comparison:
    return replace(comparison, worst_index=index, value=float(value[index]), reference=float(bar.reference[index]))


def _with_distributions(
    comparison: Comparison, value: Array, reference: Array, comparable: NDArray[np.bool_]
) -> Comparison:
    """Add top-1 agreement and KL over the positions whose logits are all comparable."""
    positions = comparable.all(-1)
    if not positions.any():
        return comparison
    return replace(
        comparison,
        top1_agreement=top1_agreement(value[positions], reference[positions]),
        kl=kl_divergence(value[positions], reference[positions]),
    )
