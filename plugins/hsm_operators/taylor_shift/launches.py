"""Calls of real models for the report on CUDA launches, and what the family's kernels move (taylor_call.h)."""

from __future__ import annotations

from collections.abc import Mapping

from ..case import Case, Traffic
from .fused import feature_count
from .spec import TAYLOR_SHIFT

_FLOAT = 4
_NORMS = {"normalize": 1, "output_norm": 1}


def sizes(batch: int, length: int, width: int) -> dict[str, int]:
    return {"B": batch, "T": length, "H": 16, "d": width, "e": width}


LARGE = (
    *(Case(TAYLOR_SHIFT, sizes(8, 4096, width), _NORMS) for width in (32, 64, 128)),
    Case(TAYLOR_SHIFT, sizes(8, 512, 64), _NORMS),
    Case(TAYLOR_SHIFT, sizes(1, 16384, 64), _NORMS),
)


def traffic(kernel: str, blocks: Mapping[str, int], sizes: Mapping[str, int], element: int) -> Traffic:
    """Return what all launches of a kernel move through the second-level cache.

    Args:
        kernel: its name with template arguments.
        blocks: of each kernel of the call, all launches together.
        sizes: the call's.
        element: bytes of T.
    """
    length, heads, width, columns = sizes["T"], sizes["B"] * sizes["H"], sizes["d"], sizes["e"]
    features = feature_count(width)
    slot = _FLOAT * (features * -(-columns // 8) * 8 + -(-features // 4) * 4)
    row = (width + columns) * element
    causal = "F" in sizes  # it carries a state
    accumulate = next((name for name in blocks if name.startswith("taylor_accumulate")), None)
    tiles = -(-features // (128 if accumulate and "tensor" in accumulate else 64))
    slots = blocks[accumulate] // tiles if accumulate else 0
    if kernel == accumulate:
        return Traffic(heads * length * row * tiles + slots * slot, kept=slots * slot)
    if kernel.startswith("taylor_combine"):
        return Traffic((2 if causal else 1) * (slots + heads) * slot)
    by_sums, by_keys = (part == "true" for part in kernel.rstrip(">").split(",")[-2:])
    # Causal: about half of its own segment.
    keys = length * heads // (2 * slots) if causal else length
    return Traffic(blocks[kernel] * (by_sums * slot + by_keys * keys * row) + 2 * heads * length * row)
