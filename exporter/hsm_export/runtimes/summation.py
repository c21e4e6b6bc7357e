"""Products of onnx's evaluator whose terms are added in another order.

Floating-point sums depend on the order of their terms, and every runtime has one of its own. So a single evaluator
shows by one draw alone what native precision costs; several orders show what it may cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


def products(order: int = 0) -> list[type[OpRun]]:
    """Return implementations of MatMul and Gemm for `onnx.reference.ReferenceEvaluator(new_ops=…)`.

    Both accumulate low-precision products in float32, as every processor does.

    Args:
        order: 0 adds the terms as NumPy does; every other number stands for a random order of its own.
    """

    class MatMul(OpRun):
        def _run(self, a: Array, b: Array) -> tuple[Array]:
            return (_product(a, b, order),)

    class Gemm(OpRun):
        def _run(
            self, a: Array, b: Array, c: Array | None = None, *, alpha: float, beta: float, transA: int, transB: int
        ) -> tuple[Array]:
            product = _product(a.T if transA else a, b.T if transB else b, order)
            result = product * product.dtype.type(alpha)
            return (result if c is None else result + c * c.dtype.type(beta),)

    return [MatMul, Gemm]


def _product(a: Array, b: Array, order: int) -> Array:
    """Return a @ b with the terms of each sum in the given order."""
    if order:
        shuffled = np.random.default_rng((order, a.shape[-1])).permutation(a.shape[-1])
        a, b = a[..., shuffled], b[shuffled] if b.ndim == 1 else b[..., shuffled, :]
    if a.dtype.itemsize >= 4:
        return np.asarray(np.matmul(a, b))
    return np.asarray(np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype))
