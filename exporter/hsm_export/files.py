"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import BadInputError, HsmExportError

_MAX_DOCUMENT_BYTES = 64 * 1024 * 1024


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a path beside `target`; rename it onto `target` on success, delete it on any failure.

    Args:
        target: the file to make; its directory must exist.

    Raises:
        BadInputError: the directory is missing or not writable, `target` is a directory, or the disk is full.
    """
    target = Path(target)
    check_target(target)
    with _explained(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    scratch = Path(name)
    try:
        with _explained(target):
            yield scratch
            scratch.chmod(0o666 & ~_umask())
            scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(parent: str | Path) -> Iterator[Path]:
    """Yield a hidden scratch directory inside `parent` that is removed at the end, whatever happens."""
    parent = Path(parent)
    check_target(parent / "x")
    with _explained(parent), tempfile.TemporaryDirectory(prefix=".hsm-export.", dir=parent) as name:
        yield Path(name)


def replace_directory(finished: Path, target: Path, scratch: Path) -> None:
    """Move a finished directory to its place; what was there goes to `scratch`, and comes back if the move fails.

    Args:
        finished: the new directory, inside `scratch`.
        target: its place, free or taken by a directory.
        scratch: what `atomic_directory` gave, beside `target`.
    """
    old = scratch / "replaced" / target.name
    if target.exists():
        old.parent.mkdir()
        target.rename(old)
    try:
        finished.rename(target)
    except BaseException:  # Ctrl-C must not cost the old one either
        if old.exists():
            old.rename(target)
        raise


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_file(path: str | Path, what: str) -> Path:
    """Return `path` when it is a readable file; `what` names it in the error.

    Raises:
        BadInputError: nothing is there, it is a directory, or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise BadInputError(f"{what} {path} does not exist", "check the path")
    if path.is_dir():
        raise BadInputError(f"{what} {path} is a directory, not a file", "name the file inside it")
    if not os.access(path, os.R_OK):
        raise BadInputError(f"{what} {path} cannot be read", "check its permissions")
    return path


def check_target(target: Path) -> None:
    """Raise BadInputError when a file cannot be made at `target`: a directory is there, or its directory is not."""
    if target.is_dir():
        raise BadInputError(f"cannot write {target}: it is a directory", "name a file inside it")
    if not target.parent.is_dir():
        raise BadInputError(f"cannot write {target}: the directory {target.parent} does not exist", "create it first")


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals about `target` into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BadInputError(
                f"cannot write {target}: the disk is full", "free space or choose another disk"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadInputError(f"cannot write {target}: permission denied", "choose a writable directory") from error
        if error.errno in (errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG):
            raise BadInputError(f"cannot write {target}: {error.strerror}") from error
        raise HsmExportError(f"cannot write {target}: {error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_name(text: str) -> str:
    """Return a text, such as a runtime's name, as a name that every file system takes: ort@/a/b as ort@_a_b."""
    return re.sub(r"[^\w.@=+-]", "_", text)
