"""Fix the sizes of a graph, for compilers that know no dynamic shapes.

Every named dimension gets a number, and all that was computed from shapes becomes a constant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeGuard

from ..errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir


def require_all(names: Collection[str], sizes: Mapping[str, int]) -> None:
    """Hold sizes to the names of a graph's dimensions.

    Raises:
        UsageError: a dimension has no size, or a size belongs to no dimension.
    """
    listed = ", ".join(sorted(names)) or "all fixed"
    if missing := sorted(set(names) - set(sizes)):
        raise UsageError(f"no size is given for {', '.join(missing)}", f"the file's dimensions are {listed}")
    if unknown := sorted(set(sizes) - set(names)):
        raise UsageError(f"no dimension is called {', '.join(unknown)}", f"the file's dimensions are {listed}")


def make_static(model: ir.Model, sizes: Mapping[str, int], weights: set[str]) -> None:
    """Give every named dimension of a portable graph a size and fold what follows from it, in place.

    Args:
        model: a graph without functions.
        sizes: name of a dimension -> its size.
        weights: names of the initialisers that are weights; they are never folded.

    Raises:
        UsageError: a dimension has no size, or a size belongs to no dimension.
    """
    from onnx_ir.passes.common import ShapeInferencePass

    from .simplification import simplify

    require_all(dimension_names(model), sizes)
    for value in model.graph.inputs:
        value.shape = _sized(value.shape, sizes)
    declared = [_sized(value.shape, sizes) for value in model.graph.outputs]
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None  # it is found anew, with numbers
    simplify(model, weights)
    for value, shape in zip(model.graph.outputs, declared, strict=True):
        value.shape = value.shape or shape
    if any(node.op_type in ("Shape", "Size") for node in model.graph):
        # Folding alone, node by node, does not find every size with onnx 1.19 and onnxscript 0.7.
        ShapeInferencePass()(model)
        simplify(model, weights)


def _sized(shape: ir.Shape | None, sizes: Mapping[str, int]) -> ir.Shape | None:
    """Return a shape with numbers for the names that have one; formulas of names become unknown."""
    import onnx_ir as ir

    if shape is None:
        return None
    return ir.Shape([sizes.get(str(dim.value)) if _is_named(dim) else dim for dim in shape])


def dimension_names(model: ir.Model) -> set[str]:
    """Return the names of the dimensions of a graph's inputs that have no size."""
    found = (dim for value in model.graph.inputs if value.shape is not None for dim in value.shape)
    return {str(dim.value) for dim in found if _is_named(dim)}


def _is_named(dim: int | ir.SymbolicDim) -> TypeGuard[ir.SymbolicDim]:
    return not isinstance(dim, int) and dim.value is not None


def floating(model: ir.Model) -> set[str]:
    """Return the names of the initialisers of floating-point types: sizes are never computed from those."""
    found = ((value, value.const_value) for value in model.graph.initializers.values())
    return {value.name or "" for value, tensor in found if tensor is not None and tensor.dtype.is_floating_point()}
