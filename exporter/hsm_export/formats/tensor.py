"""A tensor that goes into a graph or comes out of it, as documents describe it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from .document import Document

# What is written in the place of a type that the file does not give.
UNTYPED = "no type"
ANY_SHAPE = ("…",)


class Tensor(Document, frozen=True):
    """An input or output.

    Attributes:
        name: its name.
        dtype: NumPy's name of a tensor's type, "bfloat16" and "string" besides; in words what is no tensor, such as
            "sequence(float32)", "optional(int64)" or "map(int64, string)"; "no type" where the file gives none.
        shape: sizes, and names of dynamic dimensions; empty for scalars, and ANY_SHAPE where the file gives none.
    """

    name: str
    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0, lt=2**31)] | str, ...]

    @property
    def is_tensor(self) -> bool:
        """Whether it is a dense tensor of a known type."""
        return "(" not in self.dtype and self.dtype != UNTYPED

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat"))


class InputSpec(Tensor, frozen=True):
    """One graph input, as the exporter records it.

    Attributes:
        example_shape: the shape that the model was traced and checked with; empty where nobody says.
        low: smallest value of an integer input; None where the file does not say.
        high: largest value of an integer input; None where the file does not say, and when it is the length of the
            sequence.
        counts: of numbers of valid tokens, the dimension (or its fixed size) whose tokens they count.
        indexes: of indices, the dimension (or its fixed size) whose elements they name.
        seen: the smallest and the largest integer to draw where no bound is known; None where nothing tells.
        usual: the commonest integer or Boolean of the exporter's example, which is what a mask lets through.
    """

    example_shape: tuple[int, ...] = ()
    low: int | None = None
    high: int | None = None
    counts: str | int | None = None
    indexes: str | int | None = None
    seen: tuple[int, int] | None = None
    usual: int | None = None

    @property
    def is_lengths(self) -> bool:
        """Whether the input holds the number of valid tokens of each row."""
        return len(self.shape) == 1 and (self.counts is not None or self.name == "lengths")

    @property
    def is_mask(self) -> bool:
        """Whether its values are all 0 and 1, as far as is known."""
        return self.dtype == "bool" or (self.is_integer and self.high is None and self.drawn == (0, 1))

    @property
    def drawn(self) -> tuple[int, int]:
        """The smallest and the largest integer that random inputs hold."""
        low, high = self.seen or (0, 1)
        return (low if self.low is None else self.low), (high if self.high is None else self.high)

    def bounded(self, by_name: Mapping[str, int]) -> InputSpec:
        """Return the input as it is at these sizes of dynamic dimensions: indices are smaller than what they index."""
        size = by_name.get(self.indexes) if isinstance(self.indexes, str) else self.indexes
        return self if size is None else replace(self, low=0, high=size - 1)

    def sizes(self, by_name: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with numbers in the place of dynamic dimensions."""
        return tuple(size if isinstance(size, int) else by_name[size] for size in self.shape)
