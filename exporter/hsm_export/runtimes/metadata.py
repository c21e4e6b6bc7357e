"""What Polygraphy asks a runner about its inputs."""

from __future__ import annotations

import onnx
from polygraphy.common import TensorMetadata

from .runtime import RunContext


def graph_metadata(context: RunContext) -> TensorMetadata:
    """Return the graph inputs' names, types and shapes (None where dynamic) as Polygraphy's metadata.

    bfloat16 inputs are called float32, in which runners get them: Polygraphy cannot compare or cast NumPy's bfloat16.
    """
    metadata = TensorMetadata()
    for value in context.model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        exchanged_wide = tensor.elem_type == onnx.TensorProto.BFLOAT16
        element_type = onnx.TensorProto.FLOAT if exchanged_wide else tensor.elem_type
        metadata.add(value.name, dtype=onnx.helper.tensor_dtype_to_np_dtype(element_type), shape=shape)
    return metadata
