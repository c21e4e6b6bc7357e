"""Calls of real models for the report on CUDA launches, and what the family's kernels move."""

from __future__ import annotations

from collections.abc import Mapping

from ..case import Case, Traffic
from .spec import OPERATORS

# A layer of the SwitchHead of 262M parameters.
_LAYER = {"D": 1024, "H": 4, "E": 4, "f": 64}

LARGE = tuple(
    Case(operator, {"B": 8, "T": length} | _LAYER, {"k": 2}) for operator in OPERATORS for length in (1024, 1)
)
_COLUMNS = 64  # of a tile's block
_VECTORS = 8  # of the gathering block


def traffic(kernel: str, blocks: Mapping[str, int], sizes: Mapping[str, int], element: int) -> Traffic:
    """Return what all launches of a kernel read: rows of x that chose, and columns of the experts' matrices."""
    # One of the two forms sums over the heads in a block; then the grid is of outputs of width D.
    tiles = {name: int(name.split(",")[1]) for name in blocks if "tile" in name}
    tokens = sizes["B"] * sizes["T"]
    step = tiles.get(kernel, 1)
    chosen, vectors = sizes["k"], int(kernel.rstrip(">").split(",")[-1]) if kernel not in tiles else 0
    per_head = -(-tokens // step) * -(-sizes["f"] // (_COLUMNS if vectors == 0 else _VECTORS * vectors))
    plain = blocks[kernel] == per_head * sizes["H"]
    heads, inputs = (1, sizes["D"]) if plain else (sizes["H"], sizes["f"])
    if vectors:
        read = inputs * (chosen * _VECTORS * vectors + 1)
    else:
        read = inputs * (step * chosen + min(sizes["E"], step * chosen) * _COLUMNS)
    return Traffic(blocks[kernel] * heads * read * element)
