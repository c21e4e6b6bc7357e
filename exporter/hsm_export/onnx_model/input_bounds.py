"""What the inputs of a file may hold: as the exporter recorded it, else as the tables show that they look up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from ..errors import BadInputError
from ..formats.tensor import InputSpec
from .nodes import nodes_of
from .values import tensor_of

if TYPE_CHECKING:
    import onnx

# Operators whose result holds values of their first input, at other places.
_MOVES = frozenset(
    ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Slice", "Expand", "Tile", "Clip")
)
_LOOKUPS = {"Gather": 1, "GatherElements": 1, "GatherND": 1}


def input_specs(
    path: Path, model: onnx.ModelProto, described: Sequence[Mapping[str, Any]] | None
) -> tuple[InputSpec, ...]:
    """Return the specification of every graph input.

    Args:
        path: the file, for errors.
        model: its graph.
        described: what the metadata says about the inputs, or None.

    Raises:
        BadInputError: the metadata does not describe this graph's inputs.
    """
    initialised = {tensor.name for tensor in model.graph.initializer}
    tensors = [tensor_of(value) for value in model.graph.input if value.name not in initialised]
    known = {item["name"]: item for item in described or ()}
    names = {tensor.name for tensor in tensors}
    if set(known) - names:  # tools may add inputs
        raise BadInputError(
            f"{path}: the metadata describes the inputs {', '.join(sorted(known))}, the graph has "
            f"{', '.join(sorted(names))}",
            "export the file again",
        )
    specs = [InputSpec(**asdict(tensor)) for tensor in tensors]
    return tuple(_bounded(model, spec, known.get(spec.name, {})) for spec in specs)


def _bounded(model: onnx.ModelProto, spec: InputSpec, known: Mapping[str, Any]) -> InputSpec:
    """Return an input with its bounds: what is recorded, else what its use shows.

    Args:
        model: the file's graph.
        spec: the input.
        known: what the metadata says about it.
    """
    seen = known.get("seen")
    spec = replace(
        spec,
        usual=known.get("usual"),
        counts=known.get("counts"),
        indexes=known.get("indexes"),
        seen=tuple(seen) if seen else None,
    )
    if not spec.is_integer:
        return spec
    low, high = known.get("low"), known.get("high")
    if spec.is_lengths:
        return replace(spec, low=1 if low is None else low, high=high)
    if high is None:
        rows = min(looked_up(model, spec.name, {}, certain=True), default=None)
        low, high = (low, None) if rows is None else (0, max(0, rows - 1))
    if high is None and (rows := min(looked_up(model, spec.name, {}), default=None)) is not None:
        spec = replace(spec, seen=(0, max(0, rows - 1)))
    return replace(spec, low=low, high=high)


def looked_up(
    model: onnx.ModelProto, name: str, shapes: Mapping[str, Sequence[int]], *, certain: bool = False
) -> Iterator[int]:
    """Yield the sizes of the dimensions that an input's values index.

    Args:
        model: the file.
        name: the input.
        shapes: those of other tensors than weights and constants, as far as they are known.
        certain: leave out what may not happen to all values: look-ups in inner graphs, and after a Clip or Slice.
    """
    fixed = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    aliases = {name}
    moves = _MOVES - {"Clip", "Slice"} if certain else _MOVES
    for node in model.graph.node if certain else nodes_of(model.graph.node):
        if node.op_type == "Constant" and node.output:
            fixed[node.output[0]] = next((tuple(item.t.dims) for item in node.attribute if item.name == "value"), ())
        carriers = node.input if node.op_type == "Concat" else node.input[:1] if node.op_type in moves else ()
        if aliases.intersection(carriers):
            aliases.update(node.output)
        position = _LOOKUPS.get(node.op_type)
        if position is not None and len(node.input) > position and node.input[position] in aliases:
            yield from _extent(node, fixed.get(node.input[0]) or tuple(shapes.get(node.input[0], ())))


def _extent(node: onnx.NodeProto, shape: tuple[int, ...]) -> Iterator[int]:
    if not shape:
        return
    if node.op_type == "GatherND":
        yield min(shape)
        return
    axis = next((int(item.i) for item in node.attribute if item.name == "axis"), 0)
    if -len(shape) <= axis < len(shape):
        yield shape[axis]
