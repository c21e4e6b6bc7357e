"""What Polygraphy asks a runner about its inputs."""

from __future__ import annotations

from polygraphy.common import TensorMetadata

from ..dtypes import BY_NAME
from ..onnx_model.values import ANY_SHAPE, tensor_of
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
