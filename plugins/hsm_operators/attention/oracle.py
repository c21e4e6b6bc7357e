"""Attention, its cached forms and their relative twins in float64 NumPy, query by query."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def attention(q: Array, k: Array, v: Array, lengths: Array, causal: int, window: int, scale: float) -> Array:
    """Query by query, over the keys that it sees."""
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for row, valid in enumerate(lengths):
        for token in range(q.shape[1]):
            first = max(token - window + 1, 0) if window else 0
            end = min(token + 1, valid) if causal else valid
            y[row, token] = _attended(q[row, token], k[row, first:end], v[row, first:end], scale)
    return y


def attention_cached(
    q: Array,
    k: Array,
    v: Array,
    key_cache: Array,
    value_cache: Array,
    position: Array,
    lengths: Array,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Token by token: write the cache, then read it up to there."""
    y, keys, values = np.full((*q.shape[:3], v.shape[3]), np.nan), key_cache.copy(), value_cache.copy()
    for row, valid in enumerate(lengths):
        for token in range(valid):
            now = position[row] + token
            keys[row, now], values[row, now] = k[row, token], v[row, token]
            y[row, token] = _attended(q[row, token], keys[row, : now + 1], values[row, : now + 1], scale)
    return y, keys, values


def window_attention_cached(
    q: Array,
    k: Array,
    v: Array,
    key_ring: Array,
    value_ring: Array,
    position: Array,
    lengths: Array,
    window: int,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Token by token: write the ring, then read the slots of the window."""
    y, keys, values = np.full((*q.shape[:3], v.shape[3]), np.nan), key_ring.copy(), value_ring.copy()
    slots = keys.shape[1]
    for row, valid in enumerate(lengths):
        for token in range(valid):
            now = int(position[row]) + token
            keys[row, now % slots], values[row, now % slots] = k[row, token], v[row, token]
            seen = [at % slots for at in range(max(now - window + 1, 0), now + 1)]
            y[row, token] = _attended(q[row, token], keys[row, seen], values[row, seen], scale)
    return y, keys, values


def relative_attention(
    q: Array, k: Array, v: Array, lengths: Array, relative_keys: Array, causal: int, window: int, scale: float
) -> Array:
    """Query by query, each key plus that of its distance."""
    y = np.zeros((*q.shape[:3], v.shape[3]))
    length = q.shape[1]
    for row, valid in enumerate(lengths):
        for token in range(length):
            first = max(token - window + 1, 0) if window else 0
            end = min(token + 1, valid) if causal else valid
            behind = relative_keys[first - token + length - 1 : max(end, first) - token + length - 1]
            y[row, token] = _attended(q[row, token], k[row, first:end], v[row, first:end], scale, behind)
    return y


def relative_attention_cached(
    q: Array,
    k: Array,
    v: Array,
    key_cache: Array,
    value_cache: Array,
    position: Array,
    lengths: Array,
    relative: Array,
    relative_cache: Array,
    scale: float,
) -> tuple[Array, Array, Array, Array]:
    """Token by token: write the caches, then read them up to there."""
    y, keys, values = np.full((*q.shape[:3], v.shape[3]), np.nan), key_cache.copy(), value_cache.copy()
    relatives = relative_cache.copy()
    for row, valid in enumerate(lengths):
        for token in range(valid):
            now = position[row] + token
            keys[row, now], values[row, now], relatives[row, now] = k[row, token], v[row, token], relative[row, token]
            seen = keys[row, : now + 1], values[row, : now + 1]
            y[row, token] = _attended(q[row, token], *seen, scale, relatives[row, : now + 1][::-1])
    return y, keys, values, relatives


def window_relative_attention_cached(
    q: Array,
    k: Array,
    v: Array,
    key_ring: Array,
    value_ring: Array,
    position: Array,
    lengths: Array,
    relative_keys: Array,
    window: int,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Token by token: write the ring, then read the slots of the window."""
    y, keys, values = np.full((*q.shape[:3], v.shape[3]), np.nan), key_ring.copy(), value_ring.copy()
    slots = keys.shape[1]
    for row, valid in enumerate(lengths):
        for token in range(valid):
            now = int(position[row]) + token
            keys[row, now % slots], values[row, now % slots] = k[row, token], v[row, token]
            seen = [at % slots for at in range(max(now - window + 1, 0), now + 1)]
            behind = relative_keys[window - len(seen) : window]
            y[row, token] = _attended(q[row, token], keys[row, seen], values[row, seen], scale, behind)
    return y, keys, values


def _attended(q: Array, k: Array, v: Array, scale: float, relatives: Array | None = None) -> Array:
    """(H,d), (S,G,d), (S,G,e) and perhaps (S,H,d) to (H,e); zeros for no keys."""
    heads, groups = q.shape[0], k.shape[1]
    if not len(k):
        return np.zeros((heads, v.shape[2]))
    shared = np.arange(heads) // (heads // groups)
    keys = k[:, shared] if relatives is None else k[:, shared] + relatives
    scores = np.einsum("hd,shd->hs", q, keys) * scale
    weights = np.exp(scores - scores.max(1, keepdims=True))
    result: Array = np.einsum("hs,she->he", weights / weights.sum(1, keepdims=True), v[:, shared])
    return result
