"""Products with chosen experts in float64 NumPy: all experts, with zero gates for those not chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def gates(logits: Array, k: int) -> Array:
    """Sigmoid of the k largest logits, 0 elsewhere; of equal ones the lower index is chosen."""
    chosen = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    result = np.zeros_like(logits)
    with np.errstate(over="ignore"):
        np.put_along_axis(result, chosen, 1 / (1 + np.exp(-np.take_along_axis(logits, chosen, -1))), -1)
    return result


def expert_matmul(x: Array, logits: Array, weight: Array, k: int) -> Array:
    return np.einsum("btd,bthe,hedf->bthf", x, gates(logits, k), weight, optimize=True)


def expert_matmul_sum(x: Array, logits: Array, weight: Array, k: int) -> Array:
    return np.einsum("bthf,bthe,hefd->btd", x, gates(logits, k), weight, optimize=True)
