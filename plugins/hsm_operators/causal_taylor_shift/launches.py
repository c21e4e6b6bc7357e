"""Calls of real models for the report on CUDA launches, and what the family's kernels move."""

from __future__ import annotations

from collections.abc import Mapping

from ..case import Case, Traffic
from ..taylor_shift import launches
from .spec import CAUSAL_TAYLOR_SHIFT

_NORM = {"normalize": 1}
_CALLS = ((8, 4096, 32), (8, 4096, 64), (8, 4096, 128), (1, 16384, 64), (1, 1, 64), (8, 1, 64), (64, 1, 64))

LARGE = tuple(Case(CAUSAL_TAYLOR_SHIFT, launches.sizes(*call), _NORM) for call in _CALLS)


def traffic(kernel: str, blocks: Mapping[str, int], sizes: Mapping[str, int], element: int) -> Traffic:
    """Return what all launches of a kernel move through the second-level cache; see the bidirectional family's."""
    if kernel.startswith("taylor"):
        return launches.traffic(kernel, blocks, sizes, element)
    if "finish" in kernel:
        return Traffic(0)  # a few numbers for each slice
    heads = sizes["B"] * sizes["H"]
    row = (sizes["d"] + sizes["e"]) * element
    return Traffic(2 * heads * 4 * sizes["F"] * (sizes["e"] + 1) + blocks[kernel] * row)
