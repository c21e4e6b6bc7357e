"""How far apart two tensors are, and how far apart they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import EPSILON

FLOOR = 4.0  # units in the last place of the tensor's largest number
FACTOR = 2.0  # times the error that PyTorch makes in the same precision

Array = NDArray[Any]


@dataclass(frozen=True)
class Errors:
    """Errors of one tensor against its reference; zero where nothing can be compared."""

    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    cosine: float
    worst_index: tuple[int, ...]


def measure(value: Array, reference: Array, comparable: NDArray[np.bool_]) -> Errors:
    """Measure a tensor against its reference where `comparable` holds.

    Args:
        value: the runtime's numbers.
        reference: the arbiter's, of the same shape.
        comparable: which elements count; the others may be anything.
    """
    if not comparable.any():
        return Errors(0.0, 0.0, 0.0, 0.0, 1.0, (0,) * value.ndim)
    safe_value = np.where(comparable, value, 0.0).astype(np.float64)
    safe_reference = np.where(comparable, reference, 0.0).astype(np.float64)
    error = np.abs(safe_value - safe_reference)
    relative = error[safe_reference != 0] / np.abs(safe_reference[safe_reference != 0])
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    return Errors(
        max_abs=float(error.max()),
        mean_abs=float(error.sum() / comparable.sum()),
        max_rel=float(relative.max(initial=0.0)),
        mean_rel=float(relative.mean()) if relative.size else 0.0,
        cosine=_cosine(safe_value, safe_reference),
        worst_index=tuple(int(i) for i in worst),
    )


def tolerance(native_error: float, reference: Array, comparable: NDArray[np.bool_], precision: str) -> float:
    """Return the largest error allowed: twice native precision's own, at least 4 eps(T) max|reference|."""
    scale = largest(reference, comparable)
    return max(FACTOR * native_error, FLOOR * EPSILON[precision] * scale)


def largest(reference: Array, comparable: NDArray[np.bool_]) -> float:
    """Return max|reference| over the comparable elements."""
    return float(np.abs(np.where(comparable, reference, 0.0)).max(initial=0.0))


def top1_agreement(value: Array, reference: Array) -> float:
    """Return the share of positions (…, V) whose largest logit is at the reference's place."""
    return float((value.argmax(-1) == reference.argmax(-1)).mean())


def kl_divergence(value: Array, reference: Array) -> float:
    """Return the mean KL(reference || value) in nats of the distributions over the last axis of logits."""
    log_p, log_q = _log_softmax(reference.astype(np.float64)), _log_softmax(value.astype(np.float64))
    return float(np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0).mean())


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _cosine(value: Array, reference: Array) -> float:
    value_scale, reference_scale = np.abs(value).max(), np.abs(reference).max()
    if value_scale == 0 or reference_scale == 0:
        return 1.0 if value_scale == reference_scale else 0.0
    # Scaled first, so that squares of huge numbers stay finite.
    a, b = (value / value_scale).ravel(), (reference / reference_scale).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
