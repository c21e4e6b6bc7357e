"""Inputs and outputs of a graph: name, type and shape, of whatever type ONNX allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dtypes import element_name
from ..formats.tensor import ANY_SHAPE, UNTYPED, Tensor

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class InputSpec(Tensor):
    """One graph input.

    Attributes:
        low: smallest value of an integer input; None where the file does not say.
        high: largest value of an integer input; None where the file does not say, and when it is the length of the
            sequence.
        counts: of numbers of valid tokens, the dimension (or its fixed size) whose tokens they count.
        seen: the smallest and the largest integer to draw where no bound is known; None where nothing tells.
        usual: the commonest integer or Boolean of the exporter's example, which is what a mask lets through.
    """

    low: int | None = None
    high: int | None = None
    counts: str | int | None = None
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

    def sizes(self, by_name: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with numbers in the place of dynamic dimensions."""
        return tuple(size if isinstance(size, int) else by_name[size] for size in self.shape)


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
