"""What Polygraphy asks a runner about its inputs."""

from __future__ import annotations

import onnx
from polygraphy.common import TensorMetadata

from .runtime import RunContext


def graph_metadata(context: RunContext) -> TensorMetadata:
    """Return the graph inputs' names, types and shapes (None where dynamic) as Polygraphy's metadata."""
    metadata = TensorMetadata()
    for value in context.model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        metadata.add(value.name, dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape=shape)
    return metadata
