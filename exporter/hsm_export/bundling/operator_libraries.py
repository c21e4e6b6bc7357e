"""The libraries of operators that are not ours: which a bundle needs, and where they are installed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from hsm_operators import find
from hsm_operators.libraries import VARIABLE, folders_of, home_of

from ..errors import MissingDependencyError
from ..files import sha256
from ..onnx_model.parsing import parse
from ..operators.fusing import Fusion, fusion
from .manifest import LibraryEntry
from .opening import manifest_of

_CURE = f"install the library that the bundle was made with, and name its folder in {VARIABLE}"
# For a machine without CUDA the others may be missing: they are looked for where they are needed.
NEEDED_HERE = "onnxruntime"
_ADAPTERS: tuple[Literal["onnxruntime", "onnxruntime_cuda"], ...] = ("onnxruntime", "onnxruntime_cuda")


def needed_libraries(models: Iterable[Path], plugins: Mapping[str, str]) -> tuple[tuple[LibraryEntry, ...], list[str]]:
    """Return the libraries that a bundle of models names, and what to build for those that run as their bodies.

    Args:
        models: the ONNX files.
        plugins: SHA-256 of the plugin libraries that the bundle's engines were built with, by name.
    """
    found: dict[str, LibraryEntry] = {}
    missing: dict[str, None] = {}
    for model in map(parse, models):
        for adapter in _ADAPTERS:
            fused = fusion(model, adapter)
            for entry in library_entries(fused, adapter):
                _add(found, entry)
            if adapter == NEEDED_HERE:
                missing |= dict.fromkeys(fused.selection.missing.values())
        operators = tuple(name for name in fusion(model, "tensorrt").selection.libraries)
        for name, digest in plugins.items():
            if not name.startswith("libhsm_") and operators:
                _add(found, LibraryEntry(name, "tensorrt", digest, operators))
    return tuple(found.values()), list(missing)


def _add(found: dict[str, LibraryEntry], entry: LibraryEntry) -> None:
    """Add a library, or to one that is there already the operators of another model."""
    before = found.get(entry.file)
    operators = (*(before.operators if before else ()), *entry.operators)
    found[entry.file] = LibraryEntry(entry.file, entry.adapter, entry.sha256, tuple(dict.fromkeys(operators)))


def library_entries(fused: Fusion, adapter: str) -> Iterator[LibraryEntry]:
    """Yield what a manifest says of the libraries that run a model's operators."""
    for path in fused.libraries:
        operators = tuple(name for name, library in fused.selection.libraries.items() if library.path == path)
        yield LibraryEntry(path.name, cast(Any, adapter), sha256(path), operators)


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
    manifest = manifest_of(folder)
    entries = manifest.libraries if manifest is not None else ()
    found = [_same(entry) for entry in entries if entry.adapter == adapter]
    with preferred(path for path in found if path is not None):
        yield


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
