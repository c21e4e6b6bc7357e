"""The libraries of operators that are not ours which a bundle needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from ..formats.bundle_manifest import LibraryEntry
from ..onnx_model.fusing import fusion, library_entries
from ..onnx_model.parsing import parse

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
