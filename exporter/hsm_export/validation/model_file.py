"""Open an ONNX file for validation: is it one, is it whole, and what does it say about itself."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from hsm_operators import Operator

from ..errors import BadInputError
from ..file_operators import FileOperators
from ..files import require_file
from .inputs import InputSpec, input_specs

_PREFIX = "hsm_export."
_PRECISIONS: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class ModelFile:
    """An opened ONNX file.

    Attributes:
        path: where it lies.
        model: its graph; external data is not loaded.
        metadata: the metadata that our exporter wrote, without the prefix; empty for other files.
        precision: type of the weights and activations: "fp32", "fp16" or "bf16".
        inputs: what may be fed.
        config: the model's configuration as JSON data; empty for a user's own module.
    """

    path: Path
    model: onnx.ModelProto
    metadata: dict[str, str]
    precision: str
    inputs: tuple[InputSpec, ...]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What the model does, or "" when the file does not say."""
        return self.metadata.get("task", "")

    def weight_bytes(self) -> int:
        """Return the size of the weights in bytes."""
        return sum(_tensor_bytes(tensor) for tensor in self.model.graph.initializer)

    @functools.cached_property
    def operators(self) -> list[tuple[onnx.NodeProto, Operator]]:
        """The graph's nodes that are mixer operators, with their specifications, in order."""
        return FileOperators(self.model).nodes(self.model.graph)


def open_model(path: str | Path) -> ModelFile:
    """Open and check an ONNX file.

    Raises:
        BadInputError: it is missing, damaged, truncated, or not ONNX; its metadata is malformed; its external data
            is missing; or the node of a mixer operator has no function body.
    """
    path = require_file(path, "the model")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise _damaged(path, "it cannot be parsed") from error
    if not model.graph.node or not model.graph.output:
        raise _damaged(path, "it has no graph")
    _check_external_data(model, path)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise _damaged(path, str(error).strip().splitlines()[0] if str(error).strip() else "the checker") from error
    _check_bodies(model, path)
    metadata = _metadata(model, path)
    return ModelFile(
        path=path,
        model=model,
        metadata=metadata,
        precision=metadata.get("precision") or _commonest_precision(model),
        inputs=input_specs(model, _json(path, metadata, "inputs")),
        config=_json(path, metadata, "config") or {},
    )


def _metadata(model: onnx.ModelProto, path: Path) -> dict[str, str]:
    """Return what our exporter wrote about the file, without the prefix."""
    try:
        found = {item.key: item.value for item in model.metadata_props}
    except UnicodeDecodeError as error:  # protobuf looks at the bytes only now
        raise _damaged(path, "its metadata is not UTF-8") from error
    return {key.removeprefix(_PREFIX): value for key, value in found.items() if key.startswith(_PREFIX)}


def _damaged(path: Path, why: str) -> BadInputError:
    return BadInputError(f"{path} is not a whole ONNX file: {why}", "export it again")


def _check_external_data(model: onnx.ModelProto, path: Path) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        data = path.parent / entries.get("location", "")
        end = int(entries.get("offset", 0)) + _tensor_bytes(tensor)
        if not data.is_file() or data.stat().st_size < end:
            what = "is truncated" if data.is_file() else "is missing"
            raise BadInputError(f"the weights file {data} of {path} {what}", "keep both files together")


def _check_bodies(model: onnx.ModelProto, path: Path) -> None:
    bodies = {(function.domain, function.name) for function in model.functions}
    for node, _ in FileOperators(model).nodes(model.graph):
        if (node.domain, node.op_type) not in bodies:
            raise BadInputError(
                f"{path}: node {node.name} ({node.op_type}) has no function body in the file",
                "export it again with hsm-export; tools that rewrite the graph may drop the bodies",
            )


def _json(path: Path, metadata: dict[str, str], key: str) -> Any:
    text = metadata.get(key, "")
    if not text:
        return None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInputError(f"{path}: the metadata {_PREFIX}{key} is not JSON: {error}", "export it again") from error


def _commonest_precision(model: onnx.ModelProto) -> str:
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        sizes[tensor.data_type] += _tensor_bytes(tensor)
    floats = [(size, kind) for kind, size in sizes.items() if kind in _PRECISIONS]
    return _PRECISIONS[max(floats)[1]] if floats else "fp32"


def _tensor_bytes(tensor: TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
