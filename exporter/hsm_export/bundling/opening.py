"""Open a bundle that anybody may have written: nothing in it is believed before it is checked."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInputError
from ..formats.bundle_manifest import (
    DECODE,
    ENGINES,
    MANIFEST,
    MAX_BYTES,
    MODEL,
    DecodeEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    parse_manifest,
)
from ..formats.document import one_line
from ..formats.tensor import ANY_SHAPE, UNTYPED

_AGAIN = "copy the bundle again, or write it again"
# ELF, and Mach-O in its 64-bit, 32-bit and universal forms; Windows' two letters are too common to mean anything.
_LIBRARIES = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
    """

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Path | None:
        """The ONNX file that reads whole sequences."""
        return self.path / MODEL if self.manifest.model else None

    @property
    def decode(self) -> Path | None:
        """The ONNX file that reads pieces with a state."""
        return self.path / DECODE if self.manifest.decode else None

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.path / name


def open_bundle(path: str | Path, *, digests: bool = True) -> Bundle:
    """Open a bundle after checking its manifest, that it holds exactly the listed plain files, and their contents.

    The folder may have been written by anybody: no link is followed, no file outside is touched, no weights outside the
    ONNX files are loaded. Those files know better than the manifest what they read, write and carry from call to call,
    so a contradiction is refused, as the C++ runtime does.

    Args:
        path: the bundle's folder.
        digests: compare the SHA-256 of every file too, which reads all of them.

    Raises:
        BadInputError: it is no bundle, or a file is missing, too many, of the wrong kind, damaged or hostile.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder", "name a bundle, such as model.hsm")
    manifest = parse_manifest(_manifest_bytes(folder), str(folder / MANIFEST))
    _check_listing(folder, manifest.files)
    for name, entry in manifest.files.items():
        check_file(folder, name, entry, digest=digests)
    for part in manifest.parts.values():
        for graph in (part.file, part.cpu_file):
            if graph is not None:
                _reconcile(folder / graph, part, manifest)
    return Bundle(folder, manifest)


def is_bundle(path: Path) -> bool:
    """Say whether a folder is a bundle by the looks of it: it has a manifest that can be read."""
    try:
        parse_manifest(_manifest_bytes(path), str(path))
    except BadInputError:
        return False
    return True


def check_file(folder: Path, name: str, entry: FileEntry, *, digest: bool) -> None:
    """Check one file of a bundle against what the manifest says.

    Raises:
        BadInputError: it is missing, no plain file, of another size, a shared library, or was changed.
    """
    size = _plain_file(folder, name)
    if size != entry.bytes:
        raise BadInputError(f"{folder / name} has {size} bytes, the bundle's manifest says {entry.bytes}", _AGAIN)
    with (folder / name).open("rb") as file:
        head = file.read(4)
        if head in _LIBRARIES:
            raise BadInputError(f"{folder / name} is a shared library, which has no place in a bundle")
        sha = hashlib.sha256(head)
        while digest and (block := file.read(_BLOCK)):
            sha.update(block)
    if digest and sha.hexdigest() != entry.sha256:
        raise BadInputError(f"{folder / name} was changed: its SHA-256 is not that of the bundle's manifest", _AGAIN)


def _reconcile(path: Path, part: ModelEntry | DecodeEntry, manifest: Manifest) -> None:
    """Hold what the manifest says of a graph against the file itself.

    Raises:
        BadInputError: they contradict each other.
    """
    from ..onnx_model.model_file import read_model

    file = read_model(path)
    for side, said, found in (("input", part.inputs, file.inputs), ("output", part.outputs, file.outputs)):
        own = {spec.name: (spec.dtype, spec.shape) for spec in found}
        for tensor in said:
            if tensor.name not in own:
                raise BadInputError(f"{path} has no {side} {one_line(tensor.name)!r}, which the manifest names", _AGAIN)
            dtype, shape = own[tensor.name]
            if dtype not in (UNTYPED, tensor.dtype) or shape not in (ANY_SHAPE, tensor.shape):
                raise BadInputError(
                    f"{path}: the {side} {one_line(tensor.name)!r} is {dtype} {list(shape)}, the manifest says "
                    f"{tensor.dtype} {list(tensor.shape)}",
                    _AGAIN,
                )
        if len(said) < len(own):
            raise BadInputError(f"{path} has {len(own)} {side}s, the manifest {len(said)}", _AGAIN)
    if isinstance(part, DecodeEntry) and file.metadata.get("state") and manifest.state != file.state():
        raise BadInputError(f"{path}: its state is not the one that the manifest describes", _AGAIN)


def _manifest_bytes(folder: Path) -> bytes:
    if not folder.is_dir() or not os.path.lexists(folder / MANIFEST):
        raise BadInputError(f"{folder} has no {MANIFEST}: it is not a bundle", "write one with `hsm-export bundle`")
    if _plain_file(folder, MANIFEST) > MAX_BYTES:
        raise BadInputError(f"{folder / MANIFEST} is larger than {MAX_BYTES >> 20} MB")
    return (folder / MANIFEST).read_bytes()


def _plain_file(folder: Path, name: str) -> int:
    """Return the size of a file that is one, not a link, a folder or a device."""
    try:
        status = os.lstat(folder / name)
    except OSError as error:
        raise BadInputError(f"the bundle {folder} lacks its file {name}: {error.strerror}", _AGAIN) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a plain file"
        raise BadInputError(f"{folder / name} is {kind}; a bundle holds plain files only", _AGAIN)
    if not os.access(folder / name, os.R_OK):
        raise BadInputError(f"{folder / name} cannot be read", "check its permissions")
    return status.st_size


def _check_listing(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Check that the folder holds nothing that the manifest does not list."""
    for name in _entries(folder):
        if name not in files and name != MANIFEST:
            raise BadInputError(
                f"{folder} holds {one_line(name)}, which its manifest does not list",
                "remove it: a bundle holds what its manifest lists, nothing else",
            )


def _entries(folder: Path) -> Iterator[str]:
    """Yield the names of all that lies in a bundle; the only folder that it may have is `engines`."""
    for entry in os.scandir(folder):
        if entry.name != ENGINES:
            yield entry.name
        elif not entry.is_dir(follow_symlinks=False):
            raise BadInputError(f"{folder / ENGINES} is a link or a file, not a folder", _AGAIN)
        else:
            yield from (f"{ENGINES}/{inner.name}" for inner in os.scandir(entry.path))
