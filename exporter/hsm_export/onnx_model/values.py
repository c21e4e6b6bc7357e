"""Inputs and outputs of a graph: name, type and shape, of whatever type ONNX allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dtypes import element_name

if TYPE_CHECKING:
    import onnx

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

    @property
    def is_tensor(self) -> bool:
        """Whether it is a dense tensor of a known type."""
        return "(" not in self.dtype and self.dtype != UNTYPED

    @property
    def is_sequence(self) -> bool:
        """Whether it is a sequence of dense tensors."""
        return self.dtype.startswith("sequence(") and self.dtype.count("(") == 1 and UNTYPED not in self.dtype

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(frozen=True)
class InputSpec(Tensor):
    """One graph input.

    Attributes:
        low: smallest value of an integer input; None where the file does not say.
        high: largest value of an integer input; None where the file does not say, and when it is the length of the
            sequence.
    """

    low: int | None = None
    high: int | None = None

    @property
    def is_lengths(self) -> bool:
        """Whether the input holds the number of valid tokens of each row."""
        return self.name == "lengths" and len(self.shape) == 1

    def sizes(self, batch: int, length: int, rows: int | str) -> tuple[int, ...]:
        """Return the shape with numbers in the place of dynamic dimensions.

        Args:
            batch: the size of dimensions called `rows` or "batch", and of a first one without a name.
            length: the size of all others.
            rows: the first dimension of the file's first input.
        """
        called = (rows, "batch")
        return tuple(
            size if isinstance(size, int) else batch if size in called or size == f"{self.name}.0" else length
            for size in self.shape
        )


def tensor_of(value: onnx.ValueInfoProto) -> Tensor:
    """Describe an input or output; a dimension that is negative or has no name is dynamic, and gets one."""
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") == "tensor_type" and not kind.HasField("shape"):
        return Tensor(value.name, type_name(value.type), ANY_SHAPE)
    shape = tuple(
        int(dim.dim_value)
        if dim.HasField("dim_value") and dim.dim_value >= 0
        else dim.dim_param or f"{value.name}.{axis}"
        for axis, dim in enumerate(kind.shape.dim)
    )
    return Tensor(value.name, type_name(value.type), shape)


def type_name(of: onnx.TypeProto) -> str:
    """Return the name of an ONNX type: an element type, or such as "sequence(float32)"."""
    kind = of.WhichOneof("value")
    if kind == "tensor_type":
        return element_name(of.tensor_type.elem_type) or UNTYPED
    if kind == "sparse_tensor_type":
        return f"sparse({element_name(of.sparse_tensor_type.elem_type) or UNTYPED})"
    if kind in ("sequence_type", "optional_type"):
        inner: Any = getattr(of, kind).elem_type
        return f"{kind.removesuffix('_type')}({type_name(inner)})"
    if kind == "map_type":
        key = element_name(of.map_type.key_type) or UNTYPED
        return f"map({key}, {type_name(of.map_type.value_type)})"
    return UNTYPED if kind is None else f"{kind.removesuffix('_type')}()"
