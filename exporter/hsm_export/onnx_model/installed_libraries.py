"""Where the libraries of operators that are not ours are installed, of those that a bundle names by their digests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm_operators import find
from hsm_operators.libraries import VARIABLE, folders_of, home_of

from ..errors import BadInputError, MissingDependencyError
from ..files import sha256
from ..formats.bundle_manifest import MANIFEST, MAX_BYTES, LibraryEntry, parse_manifest

_CURE = f"install the library that the bundle was made with, and name its folder in {VARIABLE}"


def installed(entry: LibraryEntry) -> Path:
    """Return where a library that a manifest names is installed.

    It is looked for in the folders of HSM_EXPORT_LIBRARIES, and beside its operators where these are known here.

    Raises:
        MissingDependencyError: it is nowhere, or another one is.
    """
    path = _same(entry)
    if path is None:
        raise MissingDependencyError(f"the bundle needs {_words(entry)}; it is not installed here", _CURE)
    return path


@contextmanager
def named_by_bundle(folder: Path, adapter: str) -> Iterator[None]:
    """Have the very libraries that a bundle names found while the block runs; nothing where the folder is no bundle.

    Those that are not installed at all are left to the bodies, which every bundle has.

    Raises:
        MissingDependencyError: another library than the bundle's is installed in its name.
    """
    found = [_same(entry) for entry in _entries(folder) if entry.adapter == adapter]
    with preferred(path for path in found if path is not None):
        yield


def _entries(folder: Path) -> tuple[LibraryEntry, ...]:
    """Return the libraries that a folder's manifest names; none where it has no manifest that can be read."""
    path = folder / MANIFEST
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return ()
        return parse_manifest(path.read_bytes(), str(path)).libraries
    except (OSError, BadInputError):
        return ()


def _same(entry: LibraryEntry) -> Path | None:
    """Return the library with the entry's digest; None where there is none of its name.

    Raises:
        MissingDependencyError: there are others of its name only.
    """
    folders = dict.fromkeys(folder for operator in entry.operators for folder in _folders(operator))
    others = []
    for folder in folders:
        path = folder / entry.file
        if not path.is_file():
            continue
        if sha256(path) == entry.sha256:
            return path
        others.append(path)
    if others:
        raise MissingDependencyError(f"{others[0]} is not the bundle's {_words(entry)}: its SHA-256 differs", _CURE)
    return None


def _words(entry: LibraryEntry) -> str:
    return f"{entry.file}, which runs {', '.join(entry.operators)}"


def _folders(operator: str) -> Iterator[Path]:
    domain, _, name = operator.partition("::")
    known = find(domain, name)
    yield from folders_of(None if known is None else home_of(known))


@contextmanager
def preferred(paths: Iterable[Path]) -> Iterator[None]:
    """Have these libraries found before all others while the block runs."""
    before = os.environ.get(VARIABLE)
    folders = dict.fromkeys(str(path.parent) for path in paths)
    os.environ[VARIABLE] = os.pathsep.join([*folders, *filter(None, [before])])
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
