"""Inputs and outputs of a graph: name, type and shape, of whatever type ONNX allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..dtypes import element_name
from ..formats.tensor import ANY_SHAPE, UNTYPED, Tensor

if TYPE_CHECKING:
    import onnx


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
