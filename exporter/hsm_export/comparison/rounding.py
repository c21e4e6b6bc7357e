"""Arrays that are rounded at random: how much a result changes by that is its condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..dtypes import EPSILON
from .error import Array


def rounded(arrays: Mapping[str, Array], precision: Callable[[str], str | None], draw: int) -> dict[str, Array]:
    """Return arrays whose floating-point numbers are moved by half a unit in the last place, up or down at random.

    Args:
        arrays: by name.
        precision: "fp32", "fp16", … of an array by its name; None leaves it as it is.
        draw: which random choice.
    """
    rng = np.random.default_rng(draw)
    moved = {}
    for name, array in arrays.items():
        kind = precision(name)
        if array.dtype.kind != "f" or kind is None:
            moved[name] = array
            continue
        signs = rng.integers(0, 2, array.shape, np.int8) * 2.0 - 1.0
        moved[name] = np.asarray(array, np.float64) * (1.0 + EPSILON[kind] / 2 * signs)
    return moved
