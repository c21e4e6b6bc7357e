"""GatedShortConvolution in float64 NumPy, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def gated_short_convolution(
    b: Array, c: Array, x: Array, weight: Array, tail: Array, lengths: Array
) -> tuple[Array, Array]:
    """b, c, x (B,T,D), weight (D,K), tail (B,K-1,D): y (B,T,D), NaN beyond the lengths, and the tail afterwards."""
    y, tail_out = np.full_like(x, np.nan), tail.copy()
    taps = weight.shape[1]
    for row, length in enumerate(lengths):
        products = np.concatenate((tail[row], b[row, :length] * x[row, :length]))
        for token in range(length):
            y[row, token] = c[row, token] * (products[token : token + taps] * weight.T).sum(0)
        tail_out[row] = products[length:]
    return y, tail_out
