"""The shift operators of HSM in float64 NumPy, the cached ones token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def token_shift(x: Array, shifts: Sequence[int]) -> Array:
    y = np.zeros_like(x)
    width = x.shape[2] // len(shifts)
    for group, shift in enumerate(shifts):
        channels = slice(group * width, (group + 1) * width)
        for token in range(x.shape[1]):
            if 0 <= token - shift < x.shape[1]:
                y[:, token, channels] = x[:, token - shift, channels]
    return y


def shift_mix(x: Array, alpha: Array, beta: Array, shifts: Sequence[int]) -> Array:
    return alpha * x + beta * token_shift(x, shifts)


def token_shift_cached(
    x: Array, ring: Array, position: Array, lengths: Array, shifts: Sequence[int]
) -> tuple[Array, Array]:
    """Token by token: read the ring, then write it."""
    y, ring_out = np.full_like(x, np.nan), ring.copy()
    width, slots = x.shape[2] // len(shifts), ring.shape[1]
    for row in range(x.shape[0]):
        for token in range(lengths[row]):
            now = position[row] + token
            for group, shift in enumerate(shifts):
                channels = slice(group * width, (group + 1) * width)
                kept = x[row, token] if shift == 0 else ring_out[row, (now - shift) % slots]
                y[row, token, channels] = kept[channels] if now >= shift else 0
            ring_out[row, now % slots] = x[row, token]
    return y, ring_out


def shift_mix_cached(
    x: Array, alpha: Array, beta: Array, ring: Array, position: Array, lengths: Array, shifts: Sequence[int]
) -> tuple[Array, Array]:
    shifted, ring_out = token_shift_cached(x, ring, position, lengths, shifts)
    return alpha * x + beta * shifted, ring_out
