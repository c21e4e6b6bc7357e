"""A table of names and shapes that translates weights between the authors' layout and ours, in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import CheckpointError

Transform = Callable[[torch.Tensor], torch.Tensor]
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@dataclass(frozen=True)
class Entry:
    """One weight in both layouts.

    Attributes:
        ours: its name in our state dict.
        theirs: its name in the authors' state dict.
        shape: its shape there.
        to_ours: turns their tensor into ours.
        to_theirs: the inverse.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...]
    to_ours: Transform = _same
    to_theirs: Transform = _same


def transposed(ours: str, theirs: str, shape: tuple[int, int]) -> Entry:
    """Return the entry of a matrix that one layout stores transposed."""
    return Entry(ours, theirs, shape, lambda tensor: tensor.T, lambda tensor: tensor.T)


def reshaped(ours: str, theirs: str, shape: tuple[int, ...], our_shape: tuple[int, ...]) -> Entry:
    """Return the entry of a tensor whose elements keep their order and change their shape."""
    return Entry(ours, theirs, shape, lambda tensor: tensor.reshape(our_shape), lambda tensor: tensor.reshape(shape))


def weight_and_bias(ours: str, theirs: str, shape: tuple[int, ...]) -> list[Entry]:
    """Return the entries of a weight of this shape and of its bias, as long as the shape's first dimension."""
    return [Entry(f"{ours}.weight", f"{theirs}.weight", shape), Entry(f"{ours}.bias", f"{theirs}.bias", shape[:1])]


def to_ours(
    entries: Sequence[Entry], weights: Mapping[str, torch.Tensor], ignored: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Translate the authors' weights; every name on either side must be accounted for.

    Args:
        entries: the table.
        weights: the authors' state dict.
        ignored: names in it that carry no weights (training statistics).

    Returns:
        Our state dict; half-precision weights become float32.

    Raises:
        CheckpointError: names missing from the file, left over in it, or tensors of another shape; all are listed.
    """
    missing = [entry.theirs for entry in entries if entry.theirs not in weights]
    left_over = sorted(set(weights) - {entry.theirs for entry in entries} - set(ignored))
    wrong = [
        f"{entry.theirs} {tuple(weights[entry.theirs].shape)} instead of {entry.shape}"
        for entry in entries
        if entry.theirs in weights and tuple(weights[entry.theirs].shape) != entry.shape
    ]
    used = [entry.theirs for entry in entries if entry.theirs in weights]
    strange = [f"{name} {weights[name].dtype}" for name in used if weights[name].dtype not in DTYPES]
    complaints = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("missing", missing),
            ("left over", left_over),
            ("wrong shape", wrong),
            ("no weights of float64, float32, float16 or bfloat16, import those from before quantisation", strange),
        )
        if names
    ]
    if complaints:
        raise CheckpointError("the weights do not fit the layout; " + "; ".join(complaints))
    return {entry.ours: _compact(entry.to_ours(weights[entry.theirs])) for entry in entries}


def to_theirs(entries: Sequence[Entry], weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate our state dict back into the authors' names and shapes.

    Raises:
        CheckpointError: names missing from `weights` or left over in it.
    """
    ours = {entry.ours for entry in entries}
    if ours != set(weights):
        raise CheckpointError(
            f"the weights do not fit the layout; missing: {', '.join(sorted(ours - set(weights))) or 'none'}; "
            f"left over: {', '.join(sorted(set(weights) - ours)) or 'none'}"
        )
    return {entry.theirs: entry.to_theirs(weights[entry.ours]).contiguous() for entry in entries}


def at_least_single(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float64 if it is float64, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def shape_of(weights: Mapping[str, torch.Tensor], name: str, rank: int) -> tuple[int, ...]:
    """Return the shape of a weight that the configuration is read from.

    Raises:
        CheckpointError: it is missing, has another number of dimensions, or an empty one.
    """
    if name not in weights:
        some = ", ".join(sorted(weights)[:5])
        raise CheckpointError(f"the weights do not fit the layout; missing: {name} (the file has {some}, …)")
    shape = tuple(weights[name].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(f"the weights do not fit the layout; {name} has shape {shape}, not {rank} dimensions")
    return shape


def count_layers(weights: Mapping[str, torch.Tensor], pattern: str) -> int:
    """Return how many different layer numbers the names have; `pattern` matches one, at the name's start."""
    return len({match.group(1) for name in weights if (match := re.match(pattern, name))})


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy with at least single precision, so that the file's storage can go."""
    return at_least_single(tensor).clone(memory_format=torch.contiguous_format)
