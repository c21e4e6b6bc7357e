"""Weights that a model and its decoding form share are kept once: the decoding file reads them from the model's."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..onnx_model.limits import tensor_bytes, tensors_of

if TYPE_CHECKING:
    import onnx

# What is left of a file of weights is packed with each tensor on a border of so many bytes.
_ALIGNMENT = 64


class _Slice(NamedTuple):
    """Where a tensor's bytes are: in which file, from where on, how many."""

    location: str
    offset: int
    length: int


def share_weights(model: Path, decoding: Sequence[Path]) -> int:
    """Let decoding files read the weights that the model's files hold too, and drop them from their own.

    Args:
        model: the ONNX file that stays as it is.
        decoding: the decoding file, and its form for CPUs where it has one; both read the same weights, and all lie in
            the model's folder. They are written anew when something is shared.

    Returns:
        Bytes that were dropped.
    """
    import onnx

    folder = model.parent
    graphs = {path: onnx.load(path, load_external_data=False) for path in decoding}
    kept = dict.fromkeys(_slices(onnx.load(model, load_external_data=False)))
    files = {piece.location for piece in kept}
    theirs = [piece for graph in graphs.values() for piece in _slices(graph) if piece.location not in files]
    by_digest = {_digest(folder, piece): piece for piece in kept} if theirs else {}
    places = {piece: by_digest.get(_digest(folder, piece)) for piece in dict.fromkeys(theirs)}
    if not any(places.values()):
        return 0
    before = sum((folder / name).stat().st_size for name in {piece.location for piece in places})
    left = [piece for piece, place in places.items() if place is None]
    moved = {piece: place for piece, place in places.items() if place is not None} | _pack(folder, left)
    for name in {piece.location for piece in places} - {piece.location for piece in left}:
        (folder / name).unlink()
    for path, graph in graphs.items():
        _move(graph, moved)
        path.write_bytes(graph.SerializeToString())
    return before - sum((folder / name).stat().st_size for name in {piece.location for piece in left})


def _external(graph: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, _Slice]]:
    for tensor in tensors_of(graph):
        if tensor.data_location == tensor.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            length = int(entries.get("length") or tensor_bytes(tensor))
            yield tensor, _Slice(entries["location"], int(entries.get("offset") or 0), length)


def _slices(graph: onnx.ModelProto) -> Iterator[_Slice]:
    return (piece for _, piece in _external(graph))


def _digest(folder: Path, piece: _Slice) -> tuple[int, bytes]:
    return piece.length, hashlib.sha256(_bytes(folder, piece)).digest()


def _bytes(folder: Path, piece: _Slice) -> bytes:
    if not piece.length:
        return b""
    with (folder / piece.location).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data[piece.offset : piece.offset + piece.length]


def _pack(folder: Path, left: Sequence[_Slice]) -> dict[_Slice, _Slice]:
    """Write what is left of each file without the gaps; return where everything is now."""
    moved: dict[_Slice, _Slice] = {}
    for name in dict.fromkeys(piece.location for piece in left):
        packed = folder / f"{name}.packed"
        with packed.open("wb") as file:
            for piece in (piece for piece in left if piece.location == name):
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                moved[piece] = _Slice(name, file.tell(), piece.length)
                file.write(_bytes(folder, piece))
        packed.replace(folder / name)
    return moved


def _move(graph: onnx.ModelProto, moved: dict[_Slice, _Slice]) -> None:
    for tensor, piece in list(_external(graph)):
        place = moved.get(piece)
        if place is not None:
            del tensor.external_data[:]
            for key, value in zip(("location", "offset", "length"), place, strict=True):
                tensor.external_data.add(key=key, value=str(value))
