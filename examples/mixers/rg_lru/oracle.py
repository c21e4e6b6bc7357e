"""RGLRU in float64 NumPy, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def rglru(x: Array, r: Array, i: Array, rate: Array, h: Array, lengths: Array) -> tuple[Array, Array]:
    """x, r, i (B,T,D), rate (D), h (B,D): y (B,T,D), NaN beyond the lengths, and h afterwards."""
    y, h_out = np.full_like(x, np.nan), h.copy()
    for row, length in enumerate(lengths):
        for token in range(length):
            log_a = -8 * np.logaddexp(0, rate) / (1 + np.exp(-r[row, token]))
            update = x[row, token] / (1 + np.exp(-i[row, token]))
            h_out[row] = np.exp(log_a) * h_out[row] + np.sqrt(-np.expm1(2 * log_a)) * update
            y[row, token] = h_out[row]
    return y, h_out
