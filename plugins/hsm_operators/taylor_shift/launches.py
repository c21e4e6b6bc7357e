"""Calls of real models for the report on CUDA launches, and what the family's kernels move (taylor_call.h)."""

from __future__ import annotations

from collections.abc import Mapping

from ..case import Case, TensorLoop, Traffic
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
    tensor = accumulate is not None and "tensor" in accumulate
    tile = _feature_tile(max(width, columns)) if tensor else 64
    tiles = -(-features // tile)
    slots = blocks[accumulate] // tiles if accumulate else 0
    if kernel == accumulate:
        products = 2.0 * heads * length * tiles * tile * columns
        return Traffic(heads * length * row * tiles + slots * slot, kept=slots * slot, flops=products)
    if kernel.startswith("taylor_combine"):
        return Traffic((2 if causal else 1) * (slots + heads) * slot)
    by_sums, by_keys = (part == "true" for part in kernel.rstrip(">").split(",")[-2:])
    # Tensor cores read 2-byte numbers and 16 bytes behind each row.
    read = features * (2 * -(-columns // 8) * 8 + 16) if tensor else slot
    # Causal: about half of its own segment.
    keys = length * heads // (2 * slots) if causal else length
    queries = blocks[kernel] * (128 if max(width, columns) <= 128 else 64)
    return Traffic(
        blocks[kernel] * (by_sums * read + by_keys * keys * row) + 2 * heads * length * row,
        flops=2.0 * queries * (by_sums * features * columns + by_keys * keys * (width + columns)),
    )


def _feature_tile(width: int) -> int:
    """Return the features of a block of accumulate on tensor cores, by the wider of keys and values."""
    return 256 if 32 < width <= 128 else 128


def tensor_loop(kernel: str) -> TensorLoop | None:
    """Return what the report has to know of a kernel's loop on tensor cores; None for other families' kernels."""
    if kernel.startswith("taylor_attend_tensor"):
        return TensorLoop()
    if not kernel.startswith("taylor_accumulate_tensor"):
        return None
    _, columns, exact = kernel.rstrip(">").split(",")
    keys = 64 if int(columns) <= 64 else 32  # of a tile, 16 of them in a pass of the inner loop
    return TensorLoop(products=2.0 if exact == "true" else 1.0, trips=keys // 16)
