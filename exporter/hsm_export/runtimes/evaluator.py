"""Operators of ours for onnx's Python evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from .summation import products

Array = NDArray[Any]


class GatherElements(OpRun):
    """As ONNX defines it. The evaluator's own takes at most 64 elements along the axis, as many as NumPy's `choose`."""

    def _run(self, data: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        return (np.take_along_axis(data, indices.astype(np.int64), axis or 0),)


def operators(order: int = 0) -> list[type[OpRun]]:
    """Return implementations for `onnx.reference.ReferenceEvaluator(new_ops=…)`.

    Args:
        order: in which order MatMul and Gemm add their terms (see `summation.products`).
    """
    return [*products(order), GatherElements]
