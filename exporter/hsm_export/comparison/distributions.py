"""What errors of logits mean for the distributions that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities over the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shifted = logits - logits.max(-1, keepdims=True)
        result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def divergences(log_p: Array, log_q: Array) -> Array:
    """Return KL(p || q) in nats of every position of log-probabilities (…,V); infinite where one is not finite."""
    with np.errstate(invalid="ignore"):
        found = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0)
    return np.where(np.isnan(found), np.inf, found)


def top(logits: Array) -> NDArray[np.int64]:
    """Return the index of the largest logit (…,V); -1 where one is NaN, which is nobody's prediction."""
    return np.where(np.isnan(logits).any(-1), -1, logits.argmax(-1))
