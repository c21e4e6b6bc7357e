"""Operators of the domain ai.onnx.ml that onnx's Python evaluator lacks or gets wrong, in whatever type inputs have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.aionnxml.op_svm_classifier import SVMClassifier as _SVMClassifier

Array = NDArray[Any]

_DOMAIN = "ai.onnx.ml"
# LIBSVM's: how far a probability between two classes stays from 0 and 1, and when the iteration ends.
_CERTAIN, _CLOSE, _MOST_ROUNDS = 1e-7, 0.005, 100


class SVMClassifier(_SVMClassifier):
    """As LIBSVM and ONNX Runtime compute it. The evaluator's own couples three and more classes wrongly."""

    op_domain = _DOMAIN

    def _probabilities(self, scores: Array, class_count_: int) -> Array:
        """Return the classes' probabilities (K,) from the scores (K(K-1)/2,) of every pair of classes."""
        upper = np.triu_indices(class_count_, 1)
        given: Any = self._svm.atts
        slopes, offsets = np.asarray(given.prob_a, scores.dtype), np.asarray(given.prob_b, scores.dtype)
        between = 1 / (1 + np.exp(scores * slopes + offsets))
        pairwise = np.zeros((class_count_, class_count_), scores.dtype)
        pairwise[upper] = np.clip(between, _CERTAIN, 1 - _CERTAIN)
        pairwise.T[upper] = 1 - pairwise[upper]
        return coupled(pairwise)


def coupled(pairwise: Array) -> Array:
    """Return probabilities (K,) of classes from those between two of them (K,K): `pairwise[i, j]` is that of i.

    The second method of Wu, Lin and Weng (2004), by LIBSVM's iteration, which ends before it has converged.
    """
    count = len(pairwise)
    quadratic = np.asarray(-pairwise.T * pairwise)
    np.fill_diagonal(quadratic, np.square(pairwise).sum(0))
    found = np.full(count, 1 / count, pairwise.dtype)
    for _ in range(max(_MOST_ROUNDS, count)):
        gradient = quadratic @ found
        value = found @ gradient
        if np.abs(gradient - value).max() < _CLOSE / count:
            break
        for place in range(count):
            own = quadratic[place, place]
            step = (value - gradient[place]) / own
            found[place] += step
            value = (value + step * (step * own + 2 * gradient[place])) / (1 + step) ** 2
            gradient = (gradient + step * quadratic[place]) / (1 + step)
            found /= 1 + step
    return found


class ZipMap(OpRun):
    """A map from labels to numbers for each row (N,K). The evaluator has none."""

    op_domain = _DOMAIN

    def _run(
        self,
        x: Array,
        classlabels_int64s: Sequence[int] | None = None,
        classlabels_strings: Sequence[str] | None = None,
    ) -> tuple[list[dict[Any, Any]]]:
        labels = classlabels_strings or classlabels_int64s or ()
        return ([dict(zip(labels, row, strict=True)) for row in np.atleast_2d(x)],)


def ml_operators() -> list[type[OpRun]]:
    """Return implementations for `onnx.reference.ReferenceEvaluator(new_ops=…)`."""
    return [SVMClassifier, ZipMap]
