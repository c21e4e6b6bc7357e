"""DecayedLinearAttention and DecayedDeltaRule in float64 NumPy, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def decayed_linear_attention(
    q: Array, k: Array, v: Array, log_decay: Array, state: Array, lengths: Array, exclusive: int
) -> tuple[Array, Array]:
    """Token by token: decay the state, add the token, and ask the state after it or before it."""
    y, state_out = np.full_like(v, np.nan), state.copy()
    for row, n in enumerate(lengths):
        for token in range(n):
            before = state_out[row]
            after = np.exp(log_decay[row, token])[..., None] * before + _outer(k[row, token], v[row, token])
            y[row, token] = _ask(before if exclusive else after, q[row, token])
            state_out[row] = after
    return y, state_out


def decayed_delta_rule(
    q: Array, k: Array, v: Array, log_decay: Array, a: Array, b: Array, state: Array, lengths: Array
) -> tuple[Array, Array]:
    """Token by token: what a reads in the state is added under b."""
    y, state_out = np.full_like(v, np.nan), state.copy()
    for row, n in enumerate(lengths):
        for token in range(n):
            before = state_out[row]
            read = _ask(before, a[row, token])
            after = np.exp(log_decay[row, token])[..., None] * before + _outer(b[row, token], read)
            state_out[row] = after + _outer(k[row, token], v[row, token])
            y[row, token] = _ask(state_out[row], q[row, token])
    return y, state_out


def _outer(key: Array, value: Array) -> Array:
    """(H,K) and (H,V) to (H,K,V)."""
    return key[:, :, None] * value[:, None, :]


def _ask(state: Array, query: Array) -> Array:
    """(H,K,V) and (H,K) to (H,V)."""
    result: Array = np.einsum("hk,hkv->hv", query, state)
    return result
