"""Sessions of graphs that are being quantised, and which of their outputs are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError
from .losses import Array, Feed

if TYPE_CHECKING:
    import onnx


def judged_outputs(model: onnx.ModelProto, scored: str) -> list[str]:
    """Return the outputs that are judged: the logits, else every one of floating-point numbers but states."""
    import onnx

    if scored:
        return [scored]
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    found = [value.name for value in model.graph.output if value.type.tensor_type.elem_type in kinds]
    return [name for name in found if not name.startswith("present.")] or found


def open_session(model: onnx.ModelProto, folder: Path = Path()) -> Any:
    """Return an ONNX Runtime session with the fused kernels where they are."""
    from ..native import custom_ops_path
    from ..runtimes.session import cpu_session

    try:
        kernels: Path | None = custom_ops_path()
    except MissingDependencyError:
        kernels = None
    return cpu_session(model, folder, kernels=kernels, float_activations=True)


def run_of(session: Any, outputs: Sequence[str]) -> Any:
    """Return a function from feeds to outputs by name."""
    known = {item.name for item in session.get_inputs()}

    def run(feed: Feed) -> Mapping[str, Array]:
        found = session.run(list(outputs), {name: array for name, array in feed.items() if name in known})
        return dict(zip(outputs, found, strict=True))

    return run
