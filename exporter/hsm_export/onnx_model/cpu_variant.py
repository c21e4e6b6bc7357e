"""bfloat16 graphs in a form that ONNX Runtime's CPU provider runs: it has next to no arithmetic of that type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInputError
from .model_file import FileFacts, open_model
from .parsing import parse

if TYPE_CHECKING:
    import onnx

_AGAIN = "write the bundle again"


def cpu_variant(source: FileFacts) -> onnx.ModelProto | None:
    """Return an equal graph that computes in float32 and rounds each result to bfloat16; None where none is needed.

    Inputs, outputs and states keep their types. Weights outside the file stay where they are: both graphs share them.
    """
    from .bfloat16 import widen_bfloat16

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
    variant = open_model(path)
    described = [(of.inputs, of.outputs, of.precision, of.metadata, of.external_data) for of in (source, variant.facts)]
    weights = [{tensor.name: tensor for tensor in of.graph.initializer} for of in (parse(source.path), variant.model)]
    if described[0] != described[1] or weights[0] != weights[1]:
        raise BadInputError(f"{path} is not {source.path.name} rewritten for CPUs", _AGAIN)
