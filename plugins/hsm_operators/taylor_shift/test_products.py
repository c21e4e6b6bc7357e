"""What tensor cores round in TaylorShift costs less than rounding inputs and outputs does: why one product is enough.

The kernels' arithmetic (taylor_tensor.cuh) in NumPy, in float64 but for what they round: weights p(q·k), features of
keys, sums and features of queries. fp32 sums are exact here; the emulated suites see those. By sums the error is below
that of rounding the output. By keys it is about as large: a rounded weight does what a rounded value does, and v was
rounded to T before.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from .fused import feature_count

Array = npt.NDArray[Any]
TYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
LENGTH, QUERIES = 2048, 256


def rounded(array: Array, dtype: Any) -> Array:
    return array.astype(np.float32).astype(dtype).astype(np.float64)


def features(x: Array) -> Array:
    """Return phi of each row of a matrix, but for the constant feature, in the order of the kernels."""
    width = x.shape[1]
    distances = [x * np.roll(x, -delta, axis=1) for delta in range(width // 2 + 1)]
    packed = np.concatenate([x, *distances], axis=1)
    return packed[:, : feature_count(width) - 1]


def inputs(width: int, dtype: Any, temperature: float) -> tuple[Array, Array, Array]:
    """Return normalised queries and keys, made of vectors that the type holds, and values that it need not hold."""
    rng = np.random.default_rng(width)
    q, k = (rounded(rng.normal(size=(LENGTH, width)), dtype) for _ in range(2))
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q[:QUERIES], k))
    return temperature * q, k, rng.normal(size=(LENGTH, width))


def by_sums(q: Array, k: Array, v: Array, dtype: Any) -> Array:
    """Return what the efficient form makes, one product each: keys' features in T, sums and queries' in float16."""
    weight = np.ones(feature_count(q.shape[1]) - 1)
    weight[q.shape[1] : 2 * q.shape[1]] = 0.5
    of_keys = features(k)
    sums = weight[:, None] * (rounded(of_keys, dtype).T @ v)
    norms = weight * of_keys.sum(axis=0)
    scale = 2.0 ** np.floor(np.log2(np.abs(sums).max()))
    query_scale = 2.0 ** -max(0.0, np.floor(np.log2(np.linalg.norm(q, axis=1).max())) + 1)
    of_queries = features(q)
    products = rounded(query_scale**2 * of_queries, np.float16) @ rounded(sums / scale, np.float16)
    return (products * scale / query_scale**2 + v.sum(axis=0)) / (of_queries @ norms + len(k))[:, None]


def by_keys(q: Array, k: Array, v: Array, dtype: Any) -> Array:
    """Return what the direct form makes: weights in T, their sum exact."""
    t = q @ k.T
    weights = 1 + t + t**2 / 2
    return rounded(weights, dtype) @ v / weights.sum(axis=1, keepdims=True)


def exact(q: Array, k: Array, v: Array) -> Array:
    t = q @ k.T
    weights = 1 + t + t**2 / 2
    return weights @ v / weights.sum(axis=1, keepdims=True)


def rms(array: Array) -> float:
    return float(np.sqrt(np.mean(array**2)))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("width, temperature", [(16, 1.0), (32, 1.0), (64, 1.0), (64, 4.0), (128, 1.0)])
def test_one_product_errs_less_than_rounding_does(name: str, width: int, temperature: float) -> None:
    dtype = TYPES[name]
    q, k, unrounded = inputs(width, dtype, temperature)
    v = rounded(unrounded, dtype)
    truth = exact(q, k, v)
    of_output = rounded(truth, dtype) - truth
    of_values = truth - exact(q, k, unrounded)
    of_sums, of_weights = by_sums(q, k, v, dtype) - truth, by_keys(q, k, v, dtype) - truth
    assert rms(of_sums) < rms(of_output)
    assert np.abs(of_sums).max() < np.abs(of_output).max()
    assert rms(of_weights) < rms(of_values + of_output)
    assert np.abs(of_weights).max() < np.abs(of_values + of_output).max()


def test_features_are_the_polynomials() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 2, 5, 8):
        q, k = rng.normal(size=(2, 3, width))
        weight = np.ones(feature_count(width) - 1)
        weight[width : 2 * width] = 0.5
        t = q @ k.T
        np.testing.assert_allclose((features(q) * weight) @ features(k).T + 1, 1 + t + t**2 / 2)
