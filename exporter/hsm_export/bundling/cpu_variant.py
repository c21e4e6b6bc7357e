"""bfloat16 graphs in a form that ONNX Runtime's CPU provider runs: it has next to no arithmetic of that type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError
from ..onnx_model.model_file import FileFacts, open_model
from ..onnx_model.parsing import parse

if TYPE_CHECKING:
    import onnx

_AGAIN = "write the bundle again"


def cpu_variant(source: FileFacts) -> onnx.ModelProto | None:
    """Return an equal graph that computes in float32 and rounds each result to bfloat16; None where none is needed.

    Inputs, outputs and states keep their types. Weights outside the file stay where they are: both graphs share them.
    """
    from ..runtimes.bfloat16 import widen_bfloat16

    if source.precision != "bf16":
        return None
    model = parse(source.path)
    widened = widen_bfloat16(model)
    return None if widened is model else widened


def check_variant(source: FileFacts, path: Path) -> None:
    """Compare a bundle's graph for CPUs with the one that it stands for: the same borders, metadata and weights.

    Raises:
        BadInputError: it is another model.
    """
    variant = open_model(path).facts
    described = [(of.inputs, of.outputs, of.precision, of.metadata, of.external_data) for of in (source, variant)]
    if described[0] != described[1] or _weights(source.path) != _weights(path):
        raise BadInputError(f"{path} is not {source.path.name} rewritten for CPUs", _AGAIN)


def _weights(path: Path) -> Mapping[str, tuple[Any, ...]]:
    """Return the weights by name: type, sizes, and the bytes or where those lie in a file beside it."""
    from onnx import numpy_helper
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    found: dict[str, tuple[Any, ...]] = {}
    for tensor in parse(path).graph.initializer:
        if uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            content: tuple[Any, ...] = (info.location, info.offset or 0, info.length)
        else:
            content = (numpy_helper.to_array(tensor).tobytes(),)
        found[tensor.name] = (tensor.data_type, tuple(tensor.dims), *content)
    return found
