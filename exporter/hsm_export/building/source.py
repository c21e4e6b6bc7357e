"""What a build needs to know of an ONNX file, read without loading its weights' external data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInputError
from ..files import require_file, sha256

if TYPE_CHECKING:
    import onnx

METADATA_PREFIX = "hsm_export."
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "MatMulInteger", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class Tensor:
    """An input or output: its shape holds sizes and, for dynamic dimensions, names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Source:
    """An ONNX file that is to be built.

    Attributes:
        path: the file.
        sha256: SHA-256 of its bytes, in hexadecimal.
        external_data: SHA-256 of each external data file, by its name relative to the model.
        inputs: graph inputs.
        outputs: graph outputs.
        precision: "fp32", "fp16" or "bf16": what the exporter recorded, else the type of most weights.
        metadata: what the exporter recorded, without the prefix `hsm_export.`.
        max_length: most tokens that the model's positions allow, or None.
    """

    path: Path
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    precision: str
    external_data: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None

    @property
    def dynamic_dimensions(self) -> tuple[str, ...]:
        """Names of the inputs' dynamic dimensions, in order of appearance."""
        return tuple(dict.fromkeys(size for tensor in self.inputs for size in tensor.shape if isinstance(size, str)))


def read_source(path: str | Path) -> Source:
    """Read what a build needs to know of an ONNX file.

    Raises:
        BadInputError: the file is missing, is not ONNX, has no outputs, is quantised, or its external data is missing,
            truncated or outside the model's directory.
    """
    path = require_file(path, "the model")
    model = load_graph(path)
    _refuse_quantised(path, model)
    metadata = recorded_metadata(model)
    initialised = {tensor.name for tensor in model.graph.initializer}
    return Source(
        path=path,
        sha256=sha256(path),
        inputs=tuple(_tensor(value) for value in model.graph.input if value.name not in initialised),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        precision=metadata.get("precision") or _commonest_precision(model),
        external_data={name: sha256(path.parent / name) for name in _external_files(path, model)},
        metadata=metadata,
        max_length=max_length(metadata),
    )


def load_graph(path: Path) -> onnx.ModelProto:
    """Load an ONNX file without its external data.

    Raises:
        BadInputError: it is not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise BadInputError(f"{path} is not an ONNX model, or is damaged: {error}", "export it again") from error
    if not model.graph.output or not model.opset_import:
        raise BadInputError(f"{path} is not an ONNX model: it has no outputs", "export it again")
    return model


def operators_by_type(path: Path, *, plugins: bool = False) -> dict[str, set[str]]:
    """Return the operators of a model by the element type of their first input.

    Args:
        path: the ONNX file.
        plugins: leave out what the `hsm` operators' bodies hold, which plugins compute.
    """
    import onnx

    from hsm_operators import inline

    model = load_graph(path)
    model = onnx.shape_inference.infer_shapes(model if plugins else inline(model))
    found: dict[str, set[str]] = {}
    for graph, known in _graphs(model.graph, {}):
        for node in graph.node:
            dtype = known.get(node.input[0]) if node.input else None
            if dtype:
                found.setdefault(dtype, set()).add(node.op_type)
    return found


def _graphs(graph: onnx.GraphProto, outer: dict[str, str]) -> Iterator[tuple[onnx.GraphProto, dict[str, str]]]:
    """Yield a graph and its subgraphs, each with the element types of the tensors that it sees."""
    known = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        known[value.name] = _dtype(value.type.tensor_type.elem_type)
    known.update((tensor.name, _dtype(tensor.data_type)) for tensor in graph.initializer)
    yield graph, known
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g, known)


def _dtype(element_type: int) -> str:
    import onnx

    return "" if element_type == 0 else str(onnx.helper.tensor_dtype_to_np_dtype(element_type).name)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    return Tensor(value.name, _dtype(tensor.elem_type), shape)


def _refuse_quantised(path: Path, model: onnx.ModelProto) -> None:
    found = sorted({node.op_type for node in model.graph.node} & set(_QUANTISED))
    if found:
        raise BadInputError(
            f"{path} is quantised ({', '.join(found)}), which this version does not take",
            "export the model in fp32, fp16 or bf16",
        )


def _commonest_precision(model: onnx.ModelProto) -> str:
    import math

    counts: dict[str, int] = {}
    for tensor in model.graph.initializer:
        precision = _PRECISIONS.get(_dtype(tensor.data_type))
        if precision:
            counts[precision] = counts.get(precision, 0) + math.prod(tensor.dims)
    return max(counts, key=lambda precision: counts[precision]) if counts else "fp32"


def _external_files(path: Path, model: onnx.ModelProto) -> list[str]:
    """Return the names of the external data files after checking that every tensor lies inside its file."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    sizes: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        if info.location not in sizes:
            sizes[info.location] = _external_size(path, info.location)
        if (info.offset or 0) + (info.length or 0) > sizes[info.location]:
            raise BadInputError(
                f"{path}: the external data file {info.location} is truncated: {tensor.name} lies beyond its end",
                "export the model again",
            )
    return list(sizes)


def _external_size(path: Path, location: str) -> int:
    file = path.parent / location
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise BadInputError(f"{path} wants its external data from {location}, outside its own directory")
    return require_file(file, f"the external data of {path},").stat().st_size


def recorded_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return what the exporter recorded in a file, without the prefix `hsm_export.`."""
    return {
        entry.key.removeprefix(METADATA_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(METADATA_PREFIX)
    }


def max_length(metadata: Mapping[str, str]) -> int | None:
    """Return the most tokens that absolute positions allow, from the recorded model configuration; None: no limit."""
    try:
        config = json.loads(metadata.get("config") or "{}")
    except json.JSONDecodeError:
        return None
    length = config.get("max_length") if isinstance(config, dict) else None
    return length if isinstance(length, int) and length > 0 else None
