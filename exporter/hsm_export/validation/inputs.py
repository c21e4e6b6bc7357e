"""What may be fed to a file: names, types, shapes and bounds of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from ..dtypes import element_name
from ..errors import BadInputError


@dataclass(frozen=True)
class InputSpec:
    """One graph input.

    Attributes:
        name: its name.
        dtype: NumPy name of its type; "bfloat16" for that.
        shape: sizes, or names of dynamic dimensions.
        low: smallest value of an integer input.
        high: largest value of an integer input; None when it is the length of the sequence, or for floats.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: int | None = None
    high: int | None = None

    @property
    def is_integer(self) -> bool:
        """Whether the input holds integers."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def is_lengths(self) -> bool:
        """Whether the input holds the number of valid tokens of each row."""
        return self.name == "lengths" and len(self.shape) == 1


def input_specs(model: onnx.ModelProto, described: Any) -> tuple[InputSpec, ...]:
    """Return the specification of every graph input.

    Args:
        model: the file.
        described: what the metadata says about the inputs' bounds (a list of objects), or None.

    Raises:
        BadInputError: the metadata does not describe this graph's inputs.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in initializers]
    bounds = _described_bounds(described, {value.name for value in values})
    return tuple(_spec(model, value, bounds.get(value.name)) for value in values)


def _described_bounds(described: Any, names: set[str]) -> dict[str, tuple[int | None, int | None]]:
    if described is None:
        return {}
    try:
        bounds = {item["name"]: (item.get("low"), item.get("high")) for item in described}
    except (TypeError, KeyError, AttributeError) as error:
        raise BadInputError("the metadata hsm_export.inputs is malformed", "export the file again") from error
    if set(bounds) != names:
        raise BadInputError(
            f"the metadata describes the inputs {', '.join(sorted(bounds))}, the graph has {', '.join(sorted(names))}",
            "export the file again",
        )
    return bounds


def _spec(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, bounds: tuple[int | None, int | None] | None
) -> InputSpec:
    tensor = value.type.tensor_type
    shape: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        named = dim.dim_param or ("batch" if axis == 0 else f"{value.name}_{axis}")
        shape.append(dim.dim_value if dim.HasField("dim_value") else named)
    dtype = element_name(tensor.elem_type)
    spec = InputSpec(value.name, dtype, tuple(shape))
    if not spec.is_integer:
        return spec
    low, high = bounds or (None, None)
    if high is None and not spec.is_lengths:
        low, high = 0, _table_rows(model, value.name) - 1
    return InputSpec(value.name, dtype, tuple(shape), low if low is not None else int(spec.is_lengths), high)


def _table_rows(model: onnx.ModelProto, name: str) -> int:
    """Return how many rows the smallest table has that the input looks up; 2 when it looks up none."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    aliases = {name}
    rows = []
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Unsqueeze", "Reshape") and node.input[0] in aliases:
            aliases.add(node.output[0])
        if node.op_type == "Gather" and node.input[1] in aliases and node.input[0] in sizes:
            rows.append(sizes[node.input[0]][0])
    return int(min(rows, default=2))
