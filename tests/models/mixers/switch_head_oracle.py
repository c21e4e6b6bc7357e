"""SwitchHead attention and sigma-MoE in float64 NumPy, written as loops over queries, heads and chosen experts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def best(logits: Array, k: int) -> list[int]:
    """Indices of the k largest logits; of equal ones, the lower index."""
    return sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:k]


def rope(x: Array, position: int, channels: int, base: float) -> Array:
    """Turn the first channels of one head's vector, as complex numbers."""
    half = channels // 2
    turn = np.exp(1j * position * base ** (-np.arange(half) * 2 / max(channels, 1)))
    turned = (x[:half] + 1j * x[half:channels]) * turn
    return np.concatenate([turned.real, turned.imag, x[channels:]])


def relative_encoding(distance: int, width: int) -> Array:
    out = np.zeros(width)
    for channel in range(width):
        angle = distance * 10000.0 ** (-(channel // 2 * 2) / width)
        out[channel] = np.sin(angle) if channel % 2 == 0 else np.cos(angle)
    return out


def switch_head(
    x: Array,
    query: Array,
    key: Array,
    value: Array,
    output: Array,
    source: Array,
    destination: Array,
    k: int,
    rotary: int = 0,
    base: float = 10000.0,
    position: Array | None = None,
    sources: tuple[Array, Array] | None = None,
) -> Array:
    """Attend from one sequence x (T,D) to itself, causally, or to all of `sources`, those of keys and values (S,D).

    query, key, position: (H,f,D); value: (H,E,D,f); output: (H,E,f,D); source, destination: (H,E,D).
    """
    length, width = x.shape
    key_rows, value_rows = sources or (x, x)
    heads, head_dim = query.shape[:2]
    y = np.zeros((length, width))
    for h in range(heads):
        q = [rope(query[h] @ row, t, rotary, base) for t, row in enumerate(x)]
        keys = [rope(key[h] @ row, t, rotary, base) for t, row in enumerate(key_rows)]
        values = []
        for key_row, value_row in zip(key_rows, value_rows, strict=True):
            logits = source[h] @ key_row
            values.append(sum(sigmoid(logits[e]) * (value_row @ value[h, e]) for e in best(logits, k)))
        for i in range(length):
            scores = []
            for j in range(len(keys) if sources else i + 1):
                score = q[i] @ keys[j]
                if position is not None:
                    score += q[i] @ (position[h] @ relative_encoding(j - i, width))
                scores.append(score / np.sqrt(head_dim))
            weights = np.exp(np.array(scores) - max(scores))
            attended = sum(w * v for w, v in zip(weights / weights.sum(), values[: len(scores)], strict=True))
            logits = destination[h] @ x[i]
            y[i] += sum(sigmoid(logits[e]) * (attended @ output[h, e]) for e in best(logits, k))
    return y


def switch_head_dense(
    x: Array,
    query: Array,
    key: Array,
    value: Array,
    output: Array,
    gate: Array,
    rotary: int,
    base: float = 10000.0,
    sources: tuple[Array, Array] | None = None,
) -> Array:
    """The special case of one expert: value (H,f,D) and output (H,f,D) are dense, gate (H,D) weights each head."""
    length, width = x.shape
    key_rows, value_rows = sources or (x, x)
    seen = np.ones((length, len(key_rows))) if sources else np.tri(length)
    y = np.zeros((length, width))
    for h in range(len(query)):
        q = np.stack([rope(query[h] @ row, t, rotary, base) for t, row in enumerate(x)])
        keys = np.stack([rope(key[h] @ row, t, rotary, base) for t, row in enumerate(key_rows)])
        scores = q @ keys.T / np.sqrt(query.shape[1])
        weights = np.exp(scores - scores.max(axis=1, keepdims=True)) * seen
        attended = weights / weights.sum(axis=1, keepdims=True) @ (value_rows @ value[h].T)
        y += (attended @ output[h]) * sigmoid(x @ gate[h])[:, None]
    return y


def sigma_moe(x: Array, router: Array, up: Array, down: Array, k: int) -> Array:
    """Sum over the k best experts of sigmoid(logit) ReLU(x K) V. router (E,D), up (E,D,w), down (E,w,D)."""
    y = np.zeros_like(x)
    for t, row in enumerate(x):
        logits = router @ row
        for e in best(logits, k):
            y[t] += sigmoid(logits[e]) * (np.maximum(row @ up[e], 0) @ down[e])
    return y
