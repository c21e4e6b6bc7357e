"""Write a quantised graph, its weights beside it where they are large."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_directory, atomic_path

if TYPE_CHECKING:
    import onnx

EXTERNAL_ABOVE = 256 << 20


def graph_bytes(model: onnx.ModelProto) -> int:
    """Return the size of a graph with its weights."""
    return int(model.ByteSize())


def write(model: onnx.ModelProto, path: Path) -> Path | None:
    """Write a graph, whole or not at all; weights above 256 MB go into `<path>.data`.

    Returns:
        The file of external data, if there is one.

    Raises:
        BadInputError: the file cannot be written.
    """
    import onnx

    if graph_bytes(model) <= EXTERNAL_ABOVE:
        with atomic_path(path) as scratch:
            onnx.save(model, scratch)
        return None
    data = path.with_name(f"{path.name}.data")
    with atomic_directory(path.parent) as folder:
        onnx.save(model, folder / path.name, save_as_external_data=True, location=data.name, size_threshold=1024)
        (folder / data.name).replace(data)
        (folder / path.name).replace(path)
    return data
