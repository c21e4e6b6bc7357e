"""The TaylorShift operators in float64 NumPy: the quadratic formula, and the causal one token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _normalised(q: Array, k: Array, temperature: Array, normalize: int) -> tuple[Array, Array]:
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
    qn, kn = _normalised(q, k, temperature, normalize)
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


def _features(x: Array) -> Array:
    """The state's rows: 1, x, then x_i x_((i+delta) mod d), delta outermost."""
    d = x.shape[-1]
    square = [x[..., i] * x[..., (i + delta) % d] for delta in range(d) for i in range(d)][: d * (d + 1) // 2]
    return np.concatenate([np.ones_like(x[..., :1]), x, np.stack(square, axis=-1)], axis=-1)


def causal_taylor_shift(
    q: Array, k: Array, v: Array, temperature: Array, state: Array, norm: Array, lengths: Array, normalize: int
) -> tuple[Array, Array, Array]:
    """Token by token: add the token to the state, then ask the state."""
    y, state_out, norm_out = np.full_like(v, np.nan), state.copy(), norm.copy()
    qn, kn = _normalised(q, k, temperature, normalize)
    d = q.shape[3]
    weight = np.ones(state.shape[2])
    weight[1 + d : 1 + 2 * d] = 0.5
    for row, n in enumerate(lengths):
        for token in range(n):
            key = _features(kn[row, token])
            state_out[row] += key[:, :, None] * v[row, token][:, None, :]
            norm_out[row] += key
            query = weight * _features(qn[row, token])
            numerator = np.einsum("hf,hfd->hd", query, state_out[row])
            y[row, token] = numerator / np.einsum("hf,hf->h", query, norm_out[row])[:, None]
    return y, state_out, norm_out
