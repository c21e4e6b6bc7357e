"""A tensor that goes into a graph or comes out of it, as documents describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What is written in the place of a type that the file does not give.
UNTYPED = "no type"
ANY_SHAPE = ("…",)


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: its name.
        dtype: NumPy's name of a tensor's type, "bfloat16" and "string" besides; in words what is no tensor, such as
            "sequence(float32)", "optional(int64)" or "map(int64, string)"; "no type" where the file gives none.
        shape: sizes, and names of dynamic dimensions; empty for scalars, and ANY_SHAPE where the file gives none.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tensor:
        """Read what a document of ours says of a tensor.

        Raises:
            KeyError, TypeError: it is something else.
        """
        shape = tuple(size if isinstance(size, int) else str(size) for size in data["shape"])
        return Tensor(str(data["name"]), str(data["dtype"]), shape)

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
