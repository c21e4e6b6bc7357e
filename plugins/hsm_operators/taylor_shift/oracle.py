"""TaylorShift in float64 NumPy: the quadratic formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def normalised(q: Array, k: Array, temperature: Array, normalize: int) -> tuple[Array, Array]:
    if not normalize:
        return q, k
    q_norm, k_norm = (np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (q, k))
    return temperature[:, None] * q / q_norm, k / k_norm


def _polynomial(q: Array, k: Array) -> Array:
    t = np.einsum("thd,shd->hts", q, k)
    return 1 + t + t**2 / 2


def taylor_shift_masked(
    q: Array, k: Array, v: Array, temperature: Array, lengths: Array, normalize: int, output_norm: int
) -> Array:
    y = np.full_like(v, np.nan)
    qn, kn = normalised(q, k, temperature, normalize)
    for row, n in enumerate(lengths):
        attention = _polynomial(qn[row, :n], kn[row, :n])
        attention = attention / attention.sum(axis=-1, keepdims=True)
        y[row, :n] = np.einsum("hts,shd->thd", attention, v[row, :n])
        if output_norm:
            y[row, :n] *= np.sqrt(n / q.shape[3])
    return y


def taylor_shift(q: Array, k: Array, v: Array, temperature: Array, normalize: int, output_norm: int) -> Array:
    everything = np.full(q.shape[0], q.shape[1])
    return taylor_shift_masked(q, k, v, temperature, everything, normalize, output_norm)
