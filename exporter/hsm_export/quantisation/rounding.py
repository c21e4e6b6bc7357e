"""From numbers to whole numbers: the nearest ones, or such as make up for each other's errors (GPTQ)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.quantisation_plan import Form
from .forms import Codes, bits_of

Array = NDArray[Any]

# Shares of the largest number of a block that its largest step may stand for: a smaller step errs less on all others.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_DAMPING = 0.01  # of the mean of the second moments, as in the paper
_MOST_DEPTH = 16384  # beyond, the inverse of the second moments takes too long


def nearest(matrix: Array, form: Form, block: int, squares: Array | None = None) -> Codes:
    """Round every number to the nearest step; of each block, choose the step with the least squared error.

    Args:
        matrix: (N,K).
        form: what it becomes.
        block: numbers of a row that share a scale.
        squares: (K,), sums of squares of what is multiplied by the columns; they weigh the errors.
    """
    rows, depth = matrix.shape
    blocks = -(-depth // block)
    integers, scales = np.empty((rows, depth), np.int8), np.empty((rows, blocks), np.float32)
    for index in range(blocks):
        part = slice(index * block, min((index + 1) * block, depth))
        scales[:, index] = _scales(matrix[:, part], bits_of(form), None if squares is None else squares[part])
        integers[:, part] = _steps(matrix[:, part], scales[:, index], bits_of(form))
    return Codes(form, integers, scales, block, "nearest")


def gptq(matrix: Array, form: Form, block: int, moments: Array) -> Codes:
    """Round column by column; the columns that follow make up for the error of each (Frantar et al., 2022, GPTQ).

    Args:
        matrix: (N,K).
        form: what it becomes.
        block: numbers of a row that share a scale.
        moments: (K,K) sum of x xᵀ over the calibration's inputs x of the product.
    """
    rows, depth = matrix.shape
    left = matrix.astype(np.float64)
    second = moments.astype(np.float64)
    second = second + np.eye(depth) * max(_DAMPING * float(np.diagonal(second).mean()), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(second)).T
    integers, scales = np.empty((rows, depth), np.int8), np.empty((rows, -(-depth // block)), np.float32)
    for index, start in enumerate(range(0, depth, block)):
        end = min(start + block, depth)
        scales[:, index] = _scales(left[:, start:end], bits_of(form), np.diagonal(second)[start:end])
        errors = np.empty((rows, end - start))
        for column in range(start, end):
            integers[:, column] = _steps(left[:, column : column + 1], scales[:, index], bits_of(form))[:, 0]
            rounded = integers[:, column] * scales[:, index].astype(np.float64)
            error = (left[:, column] - rounded) / upper[column, column]
            left[:, column + 1 : end] -= error[:, None] * upper[column, column + 1 : end]
            errors[:, column - start] = error
        left[:, end:] -= errors @ upper[start:end, end:]
    return Codes(form, integers, scales, block, "gptq")


def takes_gptq(form: Form, depth: int) -> bool:
    """Say whether GPTQ is tried: 8 bits gain nothing by it, and the inverse of large moments takes too long."""
    return bits_of(form) <= 4 and depth <= _MOST_DEPTH


def best(matrix: Array, form: Form, block: int, moments: Array | None, squares: Array | None = None) -> Codes:
    """Return the rounding whose product errs less on the calibration's inputs.

    Args:
        matrix, form, block: as for `nearest`.
        moments: (K,K) as for `gptq`; None rounds to the nearest steps.
        squares: (K,), the diagonal of the moments.
    """
    if moments is not None and not np.isfinite(moments).all():
        moments = squares = None
    if squares is None and moments is not None:
        squares = np.diagonal(moments)
    plain = nearest(matrix, form, block, squares)
    if moments is None or not takes_gptq(form, matrix.shape[1]):
        return plain
    try:
        clever = gptq(matrix, form, block, moments)
    except np.linalg.LinAlgError:  # moments without an inverse, damped as they are
        return plain
    return min((plain, clever), key=lambda codes: product_error(matrix, codes, moments))


def product_error(matrix: Array, codes: Codes, moments: Array) -> float:
    """Return the squared error of all products with the calibration's inputs: tr(E M Eᵀ)."""
    error = matrix.astype(np.float64) - codes.matrix()
    return float(np.einsum("nk,nk->", error @ moments, error))


def _scales(part: Array, bits: int, weights: Array | None) -> Array:
    """Return for each row (N,) of numbers (N,b) the step with the least (weighted) squared error."""
    most = (1 << (bits - 1)) - 1
    largest = np.abs(part).max(axis=1)
    largest = np.where(largest > 0, largest, 1.0)
    best_scale, best_error = largest / most, np.full(len(part), np.inf)
    for share in _SHARES if bits <= 4 else _SHARES[:1]:
        scale = (share * largest / most).astype(np.float32)
        gap = np.square(part - _steps(part, scale, bits) * scale[:, None].astype(np.float64))
        error = gap.sum(axis=1) if weights is None else gap @ weights
        better = error < best_error
        best_scale, best_error = np.where(better, scale, best_scale), np.where(better, error, best_error)
    scales: Array = np.maximum(best_scale, np.finfo(np.float32).tiny).astype(np.float32)
    return scales


def _steps(part: Array, scale: Array, bits: int) -> Array:
    """Return numbers (N,b) as whole numbers of steps (N,)."""
    low = -(1 << (bits - 1))
    return np.clip(np.rint(part / scale[:, None]), low, -low - 1).astype(np.int8)
