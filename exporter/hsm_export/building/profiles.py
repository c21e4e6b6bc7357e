"""Optimisation profiles: the smallest, the expected and the largest size of every dynamic dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import UsageError
from ..formats.profile import Profile, Range, Size, parse_range
from ..onnx_model.model_file import FileFacts

DEFAULT_BATCH = (1, 1, 8)
DEFAULT_LENGTH = (1, 512, 4096)
DEFAULT_CAPACITY = (1, 2048, 4096)


def resolve_profiles(source: FileFacts, requested: Sequence[Mapping[str, Size]]) -> tuple[Profile, ...]:
    """Check the requested profiles against a model and complete them with defaults.

    Args:
        source: the model.
        requested: profiles by dimension name; dimensions left out, and an empty sequence, take the defaults. Of a
            decoding file, a single profile that names no length becomes two: one for single steps, one for prompts.

    Returns:
        At least one profile for a model with dynamic dimensions, each naming all of them; none for a fixed model.

    Raises:
        UsageError: a dimension that the model does not have, sizes that contradict each other, or a length beyond
            what the model's positions allow.
    """
    dimensions = source.dynamic_dimensions
    for profile in requested:
        for name in profile:
            _check_name(source, name)
    if not dimensions:
        return ()
    profiles = list(requested) or [{}]
    if source.metadata.get("decode") == "1" and len(profiles) == 1 and "length" not in profiles[0]:
        profiles = [{**profiles[0], "length": 1}, profiles[0]]
    return tuple({name: _size(source, name, profile.get(name)) for name in dimensions} for profile in profiles)


def _check_name(source: FileFacts, name: str) -> None:
    known = source.dynamic_dimensions
    if name not in known:
        what = f"its dynamic dimensions are {', '.join(known)}" if known else "all its shapes are fixed"
        raise UsageError(f"{source.path} has no dimension named {name!r}; {what}")


def _size(source: FileFacts, name: str, requested: Size | None) -> Range:
    if requested is None:
        return _default(source, name)
    sizes = parse_range(requested, name)
    if name == "length" and source.max_length and sizes.max > source.max_length:
        raise UsageError(
            f"length: {sizes.max} is more than the {source.max_length} tokens that the model's positions allow",
            f"use --length {min(sizes.min, source.max_length)}:{min(sizes.opt, source.max_length)}:{source.max_length}",
        )
    return sizes


def _default(source: FileFacts, name: str) -> Range:
    """The sizes of a dimension that nobody gave: any batch up to 8, any length up to 4096 or the model's limit.

    So for the capacity of a decoding file's states too.
    """
    if name == "batch":
        return Range(*DEFAULT_BATCH)
    if name == "capacity" and source.metadata.get("decode") == "1":
        return Range(*DEFAULT_CAPACITY)
    if name != "length":
        raise UsageError(
            f"{source.path} has the dynamic dimension {name!r}, whose sizes have no default",
            f"add --profile {name}=min:opt:max",
        )
    smallest, expected, largest = DEFAULT_LENGTH
    limit = min(largest, source.max_length or largest)
    return Range(smallest, min(expected, limit), limit)


def input_shapes(source: FileFacts, profile: Profile) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return the (min, opt, max) shapes of every input with a dynamic dimension."""
    shapes = {}
    for tensor in source.inputs:
        if any(isinstance(size, str) for size in tensor.shape):
            ranges = [profile[size] if isinstance(size, str) else Range(size, size, size) for size in tensor.shape]
            shapes[tensor.name] = tuple(
                tuple(getattr(sizes, which) for sizes in ranges) for which in ("min", "opt", "max")
            )
    return shapes
