"""What Polygraphy asks a runner about its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from polygraphy.common import TensorMetadata

from ..dtypes import BY_NAME, BY_ONNX
from ..formats.tensor import ANY_SHAPE
from ..onnx_model.values import tensor_of
from .runtime import RunContext


def graph_metadata(context: RunContext) -> TensorMetadata:
    """Return the graph inputs' names, types and shapes (None where dynamic) as Polygraphy's metadata.

    bfloat16 inputs are called float32, in which runners get them: Polygraphy cannot compare or cast NumPy's bfloat16.
    """
    metadata = TensorMetadata()
    weights = {tensor.name for tensor in context.model.graph.initializer}
    for value in context.model.graph.input:
        if value.name in weights:
            continue  # a default that nobody replaces
        tensor = tensor_of(value)
        shape = [size if isinstance(size, int) else None for size in tensor.shape]
        kind = BY_NAME["float32" if tensor.dtype == "bfloat16" else tensor.dtype]
        metadata.add(value.name, dtype=kind.numpy, shape=None if tensor.shape == ANY_SHAPE else shape)
    return metadata


def typed_feed(model: onnx.ModelProto, feed: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays in the types that a graph's inputs of their names have."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {name: np.asarray(array).astype(BY_ONNX[types[name]].numpy, copy=False) for name, array in feed.items()}


def with_ranks(context: RunContext, feed: Mapping[str, Any]) -> RunContext:
    """Return a context whose inputs have the ranks of a feed where the file gives none: Polygraphy asks for one."""
    if all(value.type.tensor_type.HasField("shape") for value in context.model.graph.input):
        return context
    model = onnx.ModelProto()
    model.CopyFrom(context.model)
    for value in model.graph.input:
        if not value.type.tensor_type.HasField("shape") and value.name in feed:
            value.type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in feed[value.name].shape)
            value.type.tensor_type.shape.SetInParent()
    return replace(context, model=model)
