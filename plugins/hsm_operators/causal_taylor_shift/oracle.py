"""Causal TaylorShift in float64 NumPy, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..taylor_shift.oracle import normalised

Array = npt.NDArray[Any]


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
    qn, kn = normalised(q, k, temperature, normalize)
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
