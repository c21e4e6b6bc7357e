"""What type a graph's tensors have, from ONNX Runtime where ONNX's own inference does not know the operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from ..dtypes import BY_NAME
from ..onnx_model.limits import tensor_bytes
from .runtime import missing_package

# Weights beyond this are left out; no type depends on them.
_SMALL = 1 << 16
_NAMES = {"float": "float32", "double": "float64"}


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model that states types and shapes as far as ONNX's inference knows them; or the model."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # inference is a help, not a condition: operators of other domains may stop it
        return model


def tensor_infos(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return types and shapes of the main graph's values as far as the file or shape inference tells them."""
    return infos_of(inferred(model))


def infos_of(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return types and shapes of the main graph's values as the file states them; the others from ONNX Runtime."""
    infos = stated_infos(model.graph)
    unknown = [name for node in model.graph.node for name in node.output if name and name not in infos]
    if unknown:
        infos |= typed_by_onnx_runtime(model, unknown)
    return infos


def stated_infos(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    """Return types and shapes of the values that a graph itself describes; nothing is inferred."""
    weights = graph.initializer
    infos = {item.name: helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in weights}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.WhichOneof("value")
        if kind is not None and (kind != "tensor_type" or value.type.tensor_type.elem_type):
            infos[value.name] = value
    return infos


def typed_by_onnx_runtime(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, onnx.ValueInfoProto]:
    """Return the types and shapes of a graph's tensors by name; nothing where ONNX Runtime cannot say.

    Args:
        model: the model; its external data is not read.
        names: the tensors.
    """
    from .session import SessionSettings, cpu_session

    if missing_package("onnxruntime", "onnxruntime"):
        return {}
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    graph = asked.graph
    kept = [tensor for tensor in graph.initializer if not _is_large(tensor)]
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if _is_large(tensor) and tensor.name not in inputs:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        session = cpu_session(asked, Path(), settings=SessionSettings(level="0"))
    except Exception:  # its exceptions have no common base
        return {}
    return {value.name: info for value in session.get_outputs() if (info := _info(value)) is not None}


def _is_large(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == tensor.EXTERNAL or tensor_bytes(tensor) > _SMALL


def _info(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto | None:
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    known = BY_NAME.get(_NAMES.get(kind, kind))
    shape = [size if isinstance(size, (int, str)) and size != "" else None for size in value.shape]
    # An empty shape is that of a scalar or one that ONNX Runtime does not know.
    return None if known is None else helper.make_tensor_value_info(value.name, known.onnx, shape or None)
