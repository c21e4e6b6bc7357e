"""Sizes that an engine takes: the smallest, the expected and the largest of every dynamic dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from ..errors import UsageError
from .document import Document

Extent = Annotated[int, Meta(ge=1, lt=2**31)]


class Range(Document, frozen=True):
    """Sizes of one dimension: 1 <= min <= opt <= max; the engine is fastest at `opt` and refuses what lies outside."""

    min: Extent
    opt: Extent
    max: Extent

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
