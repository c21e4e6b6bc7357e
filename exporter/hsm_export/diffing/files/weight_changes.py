"""How the weights of two files differ: by norm, and whether one is a transposed, permuted, scaled or rounded other."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dtypes import BY_PRECISION
from .results import WeightChange
from .weight_streams import Distance, Weight, distance, equal_arrays, slice_digests

Array = NDArray[Any]

# Axes whose slices are compared with each other: beyond this, telling them apart costs more than it says.
_MOST_SLICES = 4096
_MOST_AXES = 5
_SAME_NORM = 1e-9
# How far a tensor that is a multiple of another may be from it, relative to its norm: rounding in its type.
_ROUNDING = {item.name: item.epsilon for item in BY_PRECISION.values()}


def weight_changes(
    old: Mapping[str, Weight], new: Mapping[str, Weight], same: Mapping[str, str], experts: Collection[str]
) -> tuple[tuple[WeightChange, ...], int]:
    """Return the weights that differ, and how many are equal and have the same name.

    Args:
        old, new: initialisers by name.
        same: old name -> new name.
        experts: new names of those whose second axis counts experts.
    """
    changes: list[WeightChange] = []
    equal = 0
    for name, other in same.items():
        if name in old and other in new:
            change = _compared(old[name], new[other], name, other, other in experts)
            equal += change is None
            changes += [change] if change else []
    matched = {other for name, other in same.items() if name in old}
    changes += [_removed(name, weight) for name, weight in old.items() if same.get(name) not in new]
    changes += [_added(name, weight) for name, weight in new.items() if name not in matched]
    return tuple(changes), equal


def _compared(old: Weight, new: Weight, name: str, other: str, experts: bool) -> WeightChange | None:
    gap = None
    if old.shape == new.shape and old.is_numeric and new.is_numeric and _same_storage(old, new):
        gap = distance(old, new)
    equal = gap.equal if gap else _same_strings(old, new)
    if equal and old.type_name == new.type_name:
        return None if name == other else _change("renamed", old, new, name, other)
    note = _note(old, new, gap, experts)
    if gap is None:
        return _change("changed", old, new, name, other, note)
    return _change("changed", old, new, name, other, note, gap.relative, gap.max_abs)


def _same_storage(old: Weight, new: Weight) -> bool:
    """Whether both arrays have the tensor's own shape; packed external ones are bytes."""
    return old.array().shape == new.array().shape


def _same_strings(old: Weight, new: Weight) -> bool:
    return (
        not old.is_numeric
        and old.shape == new.shape
        and old.type_name == new.type_name
        and list(old.tensor.string_data) == list(new.tensor.string_data)
    )


def _note(old: Weight, new: Weight, gap: Distance | None, experts: bool) -> str:
    """Say what kind of change it is, if it is one of the usual ones; "" otherwise."""
    if gap is not None and old.type_name != new.type_name:
        return _rounded(old, new)
    if old.type_name != new.type_name or not old.is_numeric:
        return ""
    if gap is None:
        return _transposed(old.array(), new.array())
    # Whatever moves numbers about keeps the norm: this spares most tensors a closer look.
    if abs(gap.old - gap.new) > _SAME_NORM * gap.old:
        return _scaled(old, new, gap)
    return _permuted(old, new, experts) or _transposed(old.array(), new.array()) or _scaled(old, new, gap)


def _rounded(old: Weight, new: Weight) -> str:
    """Say when the new numbers are the old ones in the new type."""
    pieces = zip(old.pieces(), new.pieces(), strict=True)
    with np.errstate(over="ignore", invalid="ignore"):
        same = all(np.array_equal(before.astype(after.dtype), after) for before, after in pieces)
    return f"rounded to {new.type_name}" if same else ""


def _scaled(old: Weight, new: Weight, gap: Distance) -> str:
    if not (gap.old and gap.new and math.isfinite(gap.product)):
        return ""
    factor = gap.product / gap.old**2
    closeness = abs(gap.product) / (gap.old * gap.new)
    epsilon = _ROUNDING.get(new.type_name)
    if epsilon is None or closeness < 1 - 1e-4:
        return ""
    left = distance(old, new, factor).difference
    if left > epsilon * gap.new:
        return ""
    return "negated" if abs(factor + 1) <= epsilon else f"scaled by {float(f'{factor:.6g}')}"


def _permuted(old: Weight, new: Weight, experts: bool) -> str:
    """Say which slices along one axis changed places; only one of the weights is mapped at a time."""
    for axis, size in enumerate(old.shape):
        if not 2 <= size <= _MOST_SLICES:
            continue
        before, after = (slice_digests(weight.array(), axis) for weight in (old, new))
        if before == after or Counter(before) != Counter(after):
            continue
        places = [index for index, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        what = "experts" if experts and axis == 1 else "slices"
        where = "" if what == "experts" else f" of axis {axis}"
        if len(places) == 2:
            return f"{what} {places[0]} and {places[1]}{where} swapped"
        return f"{len(places)} of {size} {what}{where} permuted"
    return ""


def _transposed(old: Array, new: Array) -> str:
    """Say which order of axes turns one into the other."""
    if not 2 <= old.ndim == new.ndim <= _MOST_AXES:
        return ""
    for order in itertools.permutations(range(old.ndim)):
        view = np.transpose(old, order)
        if order == tuple(range(old.ndim)) or view.shape != new.shape or not _alike(view, new):
            continue
        if equal_arrays(view, new):
            return "transposed" if old.ndim == 2 else f"transposed: axes {', '.join(map(str, order))}"
    return ""


def _alike(view: Array, new: Array) -> bool:
    """Whether a few elements are equal: most orders of axes fail here."""
    rng = np.random.default_rng(0)
    index = tuple(rng.integers(0, size, 64) for size in new.shape) if new.size else ()
    return bool(new.size) and bool(np.array_equal(view[index], new[index]))


def _removed(name: str, weight: Weight) -> WeightChange:
    return WeightChange("removed", name, name, old_type=weight.type_name, old_shape=weight.shape)


def _added(name: str, weight: Weight) -> WeightChange:
    return WeightChange("added", name, None, new_type=weight.type_name, new_shape=weight.shape)


def _change(
    kind: str,
    old: Weight,
    new: Weight,
    name: str,
    other: str,
    note: str = "",
    relative: float | None = None,
    largest: float | None = None,
) -> WeightChange:
    return WeightChange(kind, other, name, old.type_name, new.type_name, old.shape, new.shape, relative, largest, note)
