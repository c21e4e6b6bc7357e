"""Products of onnx's evaluator and of PyTorch whose terms are added in another order.

Floating-point sums depend on the order of their terms, and every runtime has one of its own. So a single evaluator
shows by one draw alone what native precision costs; several orders show what it may cost.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[Any]

# In how many orders native error is measured; the many numbers of larger models need no second draw.
_ORDERS, _LARGE_BYTES = 4, 100_000_000
# The order in which one number after the other is added to a sum in float32. Most libraries add several partial sums,
# which errs less; ONNX Runtime's products on the CPU do not. Where that would take too long another order stands in.
_ONE_BY_ONE, _MOST_PRODUCTS = _ORDERS - 1, 1 << 27

_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm"}


def orders(weight_bytes: int) -> range:
    """Return the orders of summation in which the native error of a model of this size is measured."""
    return range(_ORDERS if weight_bytes <= _LARGE_BYTES else 1)


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


@contextlib.contextmanager
def summed_in(order: int) -> Iterator[None]:
    """Make PyTorch add the terms of linear layers and matrix products in another order inside the block.

    The operators of domain `hsm` keep theirs.

    Args:
        order: as for `products`.
    """
    if not order:
        yield
        return
    import torch
    from torch.overrides import TorchFunctionMode

    class Shuffled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            is_linear = func is torch.nn.functional.linear and len(args) > 1
            is_product = getattr(func, "__name__", "") in _PRODUCTS and len(args) > 1
            if order == _ONE_BY_ONE and (is_linear or is_product):
                total = _one_by_one(args[0], args[1].mT if is_linear else args[1])
                bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
                if total is not None:
                    return total if bias is None else total + bias
            if is_linear:
                terms = _terms(order, args[0].shape[-1])
                args = (args[0][..., terms], args[1][..., terms], *args[2:])
            elif is_product:
                args = (*_shuffle(args[0], args[1], order), *args[2:])
            return func(*args, **(kwargs or {}))

    with Shuffled():
        yield


def _one_by_one(a: Any, b: Any) -> Any:
    """Return a @ b (tensors or arrays), each sum made of one term after the other in float32; None if it takes long."""
    if (
        a.dtype != b.dtype
        or a.ndim < 2
        or b.ndim < 2
        or a.shape[-1] < 2
        or a.shape[-1] * b.shape[-1] * math.prod(a.shape[:-1]) > _MOST_PRODUCTS
    ):
        return None
    if a.dtype.itemsize < 4:
        if isinstance(a, np.ndarray):
            return _one_by_one(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
        return _one_by_one(a.float(), b.float()).to(a.dtype)
    total = a[..., :1] * b[..., :1, :]
    for term in range(1, a.shape[-1]):
        total += a[..., term : term + 1] * b[..., term : term + 1, :]
    return total


def _shuffle(a: Any, b: Any, order: int) -> tuple[Any, Any]:
    """Return arrays or tensors whose product is a @ b, with its terms in the given order."""
    terms = _terms(order, a.shape[-1])
    return a[..., terms], b[terms] if b.ndim == 1 else b[..., terms, :]


def _terms(order: int, count: int) -> NDArray[np.int64]:
    """Return an order of so many terms."""
    return np.random.default_rng((order, count)).permutation(count)


def _product(a: Array, b: Array, order: int) -> Array:
    """Return a @ b with the terms of each sum in the given order."""
    if order == _ONE_BY_ONE and (total := _one_by_one(a, b)) is not None:
        return np.asarray(total)
    if order:
        a, b = _shuffle(a, b, order)
    if a.dtype.itemsize >= 4:
        return np.asarray(np.matmul(a, b))
    return np.asarray(np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype))
