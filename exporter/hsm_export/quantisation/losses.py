"""What a changed file costs: KL, likeliest tokens, perplexity and relative error, with a bound for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.distributions import log_softmax, top
from ..formats.quantisation_plan import Loss, Metric

Array = NDArray[Any]
Feed = Mapping[str, Array]
# From a feed to arrays by the names of outputs.
Run = Callable[[Feed], Mapping[str, Array]]

_Z = 1.645  # one-sided, 95 %


@dataclass(frozen=True)
class Reference:
    """What the given file answers to some inputs.

    Attributes:
        feeds: the inputs.
        outputs: the floating-point outputs of each feed but states, by their names.
        scored: the output that holds logits; "" without one.
        tokens: the input whose next tokens the logits predict; "" where perplexity means nothing.
        logs: log-probabilities of each feed's logits, float32.
    """

    feeds: tuple[Feed, ...]
    outputs: tuple[Mapping[str, Array], ...]
    scored: str = ""
    tokens: str = ""
    logs: tuple[Array, ...] = field(default=(), repr=False)

    @staticmethod
    def measured(run: Run, feeds: Sequence[Feed], scored: str, tokens: str) -> Reference:
        """Run the given file."""
        outputs = tuple(dict(run(feed)) for feed in feeds)
        logs = tuple(log_softmax(item[scored]).astype(np.float32) for item in outputs) if scored else ()
        return Reference(tuple(feeds), outputs, scored, tokens, logs)

    def loss(self, run: Run, metric: Metric) -> Loss:
        """Run a changed file and return what it costs.

        Args:
            run: the changed file.
            metric: what `bound` is of.
        """
        rows: list[dict[str, Array]] = []
        positions = 0
        for index, feed in enumerate(self.feeds):
            found, counted = self._rows(index, feed, run(feed))
            rows.append(found)
            positions += counted
        columns = {key: np.concatenate([item[key] for item in rows]) for key in rows[0]}
        error = _relative(columns["squares"], columns["sizes"])
        if metric == "error":
            bound = _relative(columns["squares"], columns["sizes"], _Z)
        elif metric in columns:
            bound = _upper(columns[metric], positions if metric == "top1" else 0)
            bound = math.expm1(bound) if metric == "perplexity" else bound
        else:
            bound = math.nan
        mean = {key: float(array.mean()) for key, array in columns.items()}
        return Loss(
            kl=mean.get("kl", math.nan),
            top1=1.0 - mean.get("top1", math.nan),
            perplexity=math.expm1(mean["perplexity"]) if "perplexity" in mean else math.nan,
            error=error,
            positions=positions,
            bound=bound if math.isfinite(bound) else math.inf,
        )

    def _rows(self, index: int, feed: Feed, outputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """Return for each row of a feed its mean harms, and how many predictions they come from."""
        right = self.outputs[index]
        found = {
            "squares": sum(_row_sums(np.asarray(outputs[name], np.float64) - right[name]) for name in right),
            "sizes": sum(_row_sums(np.asarray(right[name], np.float64)) for name in right),
        }
        if not self.scored:
            return found, sum(array.size for array in right.values())  # type: ignore[return-value]
        log_p, value = self.logs[index], np.asarray(outputs[self.scored])
        log_q = log_softmax(value).astype(np.float32)
        with np.errstate(invalid="ignore"):
            kl = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1, dtype=np.float64), 0.0)
        other = (top(right[self.scored]) != top(value)).astype(np.float64)
        found["kl"] = _row_means(np.where(np.isnan(kl), np.inf, kl))
        found["top1"] = _row_means(other)
        if self.tokens and log_p.ndim == 3 and log_p.shape[1] == feed[self.tokens].shape[1] > 1:
            targets = np.asarray(feed[self.tokens], np.int64)[:, 1:, None]
            lost = np.take_along_axis(log_p[:, :-1] - log_q[:, :-1], targets, -1)
            found["perplexity"] = _row_means(lost.astype(np.float64))
        return found, other.size  # type: ignore[return-value]


def _row_sums(array: Array) -> Array:
    return np.asarray(np.square(array).reshape(len(array), -1).sum(1))


def _row_means(array: Array) -> Array:
    return np.asarray(array.reshape(len(array), -1).mean(1))


def _upper(rows: Array, positions: int) -> float:
    """Return the mean of what rows lost, and 1.645 standard errors more.

    Args:
        rows: what each row lost, on average.
        positions: of shares, how many choices they count; their spread is never taken for less than that of single
            choices, for which Laplace's one more of each stands: where nothing differs, something may yet.
    """
    mean = float(rows.mean())
    spread = float(rows.std(ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    if positions:
        share = (mean * positions + 1) / (positions + 2)
        spread = max(spread, math.sqrt(share * (1 - share) / positions))
    return mean + _Z * spread


def _relative(squares: Array, sizes: Array, z: float = 0.0) -> float:
    """Return the root of the ratio of two means over rows, the first with z standard errors more."""
    whole = float(sizes.mean())
    top_ = float(squares.mean()) + z * float(squares.std(ddof=1) if len(squares) > 1 else 0.0) / math.sqrt(len(squares))
    return math.sqrt(top_ / whole) if whole > 0 else (math.inf if top_ > 0 else 0.0)
