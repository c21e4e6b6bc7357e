"""Optimisation profiles: the smallest, the expected and the largest size of every dynamic dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..onnx_model.model_file import FileFacts

DEFAULT_BATCH = (1, 1, 8)
DEFAULT_LENGTH = (1, 512, 4096)
DEFAULT_CAPACITY = (1, 2048, 4096)


@dataclass(frozen=True)
class Range:
    """Sizes of one dimension: 1 <= min <= opt <= max; the engine is fastest at `opt` and refuses what lies outside."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}:{self.opt}:{self.max}"


Size = int | str | Sequence[int] | Range
Profile = dict[str, Range]


def parse_range(value: Size, where: str = "dimension") -> Range:
    """Read a size such as 8, "8", "1:4:32" or (1, 4, 32).

    Raises:
        UsageError: not of that form, a size below 1, or sizes that do not increase; `where` names the dimension.
    """
    if isinstance(value, Range):
        return _ordered(value, where)
    parts = str(value).split(":") if isinstance(value, (int, str)) else list(map(str, value))
    if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
        text = value if isinstance(value, str) else ":".join(parts)
        raise UsageError(f"{where}: {text!r} is not a size", "write one number, or min:opt:max such as 1:4:32")
    sizes = [int(part) for part in parts]
    return _ordered(Range(*sizes) if len(sizes) == 3 else Range(*sizes * 3), where)


def _ordered(sizes: Range, where: str) -> Range:
    if sizes.min < 1:
        raise UsageError(f"{where}: the smallest size is {sizes.min}, but sizes start at 1")
    if not sizes.min <= sizes.opt <= sizes.max:
        raise UsageError(
            f"{where}: {sizes.min}:{sizes.opt}:{sizes.max} does not increase",
            "write min:opt:max with min <= opt <= max",
        )
    if sizes.max >= 2**31:
        raise UsageError(f"{where}: {sizes.max} is more than a tensor's dimension can hold")
    return sizes


def parse_profile(text: str) -> Profile:
    """Read a profile such as "batch=1:1:8,length=1:512:4096".

    Raises:
        UsageError: not of that form, or a dimension is named twice.
    """
    profile: Profile = {}
    for item in text.split(","):
        name, equals, size = item.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"profile {text!r}: {item!r} is not of the form name=min:opt:max")
        if name in profile:
            raise UsageError(f"profile {text!r} names {name} twice")
        profile[name] = parse_range(size.strip(), f"profile {text!r}: {name}")
    return profile


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
