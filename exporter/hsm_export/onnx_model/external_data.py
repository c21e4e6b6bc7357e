"""Weights outside of the file: where they lie, and whether they are all there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInputError
from .limits import tensor_bytes

if TYPE_CHECKING:
    import onnx


def external_files(path: Path, tensors: Iterable[onnx.TensorProto]) -> tuple[str, ...]:
    """Return the names of the files that hold a model's external data, in order of appearance.

    Args:
        path: the ONNX file.
        tensors: all its tensors.

    Raises:
        BadInputError: a file is missing, lies outside the model's folder or ends before a tensor does, or a tensor's
            place in it is malformed.
    """
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            offset, needed = int(entries.get("offset") or 0), tensor_bytes(tensor)
            length = int(entries.get("length") or needed)
        except ValueError:
            offset = length = needed = -1
        if min(offset, length) < 0 or length < needed:
            raise _bad(path, f"the external data of {tensor.name} has a malformed place: {entries}")
        if location not in sizes:
            sizes[location] = _size(path, location, tensor.name)
        if offset + length > sizes[location]:
            raise _bad(
                path, f"the external data file {location} is truncated: {tensor.name} ends beyond it",
                "copy the file again; the model and its external data belong together",
            )  # fmt: skip
    return tuple(sizes)


def _size(path: Path, location: str, tensor: str) -> int:
    """Return the size of an external data file."""
    try:
        file = path.parent / location
        if not location or not file.resolve().is_relative_to(path.parent.resolve()):
            raise _bad(path, f"the external data of {tensor} lies in {location!r}, outside its own directory")
        if not file.is_file():
            raise _bad(
                path, f"the external data file {location} is missing",
                "put it beside the model; the model and its external data belong together",
            )  # fmt: skip
        return file.stat().st_size
    except (OSError, ValueError) as error:  # a name that no file system takes
        raise _bad(path, f"the external data file {location!r} cannot be read: {error}") from error


def _bad(path: Path, why: str, hint: str = "export the model again") -> BadInputError:
    return BadInputError(f"{path}: {why}", hint)
