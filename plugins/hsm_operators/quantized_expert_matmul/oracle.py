"""Products with chosen experts of few bits in float64 NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..expert_matmul import oracle as plain

Array = npt.NDArray[Any]


def unpacked(weight: Array, scales: Array, per_byte: int) -> Array:
    """Return the matrices (H,E,in,out), number by number as the specification says."""
    heads, experts, groups, size, outer = weight.shape
    matrices = np.empty((heads, experts, groups * size * per_byte, outer))
    for row in range(matrices.shape[2]):
        byte, half = divmod(row, per_byte)
        group, place = divmod(byte, size)
        stored = weight[:, :, group, place].astype(np.int64)
        number = stored - 128 if per_byte == 1 else (stored >> (4 * half)) % 16 - 8
        matrices[:, :, row] = number * scales[:, :, group]
    return matrices


def spread(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the same matrices in blocks of one byte: a number times its scale is rounded, each by itself."""
    weight = inputs["weight"]
    heads, experts, groups, size, outer = weight.shape
    scales = np.repeat(inputs["scales"], size, axis=2)
    return {**inputs, "weight": weight.reshape(heads, experts, groups * size, 1, outer), "scales": scales}


def quantized_expert_matmul(x: Array, logits: Array, weight: Array, scales: Array, k: int, per_byte: int) -> Array:
    return plain.expert_matmul(x, logits, unpacked(weight, scales, per_byte), k)


def quantized_expert_matmul_sum(x: Array, logits: Array, weight: Array, scales: Array, k: int, per_byte: int) -> Array:
    return plain.expert_matmul_sum(x, logits, unpacked(weight, scales, per_byte), k)
