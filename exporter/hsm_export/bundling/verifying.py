"""Verify a bundle: that it is whole, that its parts are what the manifest says, and that its numbers are right here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BadInputError, MissingDependencyError
from ..files import sha256
from ..formats.bundle_manifest import DecodeEntry, LibraryEntry, ModelEntry
from ..formats.engine_file import read_side_file
from ..formats.result import Result
from ..onnx_model.cpu_variant import check_variant
from ..onnx_model.installed_libraries import installed, preferred
from ..onnx_model.model_file import FileFacts, open_model
from .opening import Bundle, open_bundle
from .operator_libraries import NEEDED_HERE
from .self_test import Check, read_self_test, run_self_test

_AGAIN = "write the bundle again"


@dataclass(frozen=True)
class VerifyResult(Result):
    """A bundle that was verified.

    Attributes:
        bundle: its folder.
        task: "language_model", "classification" or "".
        precision: "fp32", "fp16" or "bf16".
        files: number of files, the manifest included.
        bytes: size of those that the manifest lists.
        parts: "model" and "decode", as far as they are in it.
        engines: each engine's file and the architectures that it is for.
        runtime: what ran the self-test; None when it was not run.
        checks: the self-test's outputs; empty when it was not run.
        libraries: where the libraries of operators that are not ours are installed here, by name; None is nowhere,
            as of CUDA's on a machine without a GPU.
    """

    bundle: Path
    task: str
    precision: str
    files: int
    bytes: int
    parts: tuple[str, ...]
    engines: Mapping[str, tuple[str, ...]]
    runtime: str | None
    checks: tuple[Check, ...]
    libraries: Mapping[str, Path | None] = field(default_factory=dict)


def verify_bundle(
    path: str | Path, *, self_test: str | None = None, progress: Callable[[str], None] | None = None
) -> VerifyResult:
    """Verify a bundle that anybody may have written.

    Args:
        path: the bundle's folder.
        self_test: the runtime that shall run the self-test, such as "ort-fused"; None: do not run anything.
        progress: receives the name of each phase.

    Raises:
        BadInputError: it is no bundle, damaged, hostile, or not what its manifest says.
        MissingDependencyError: the runtime does not work here.
        NumbersDifferError: an output of the self-test is off by more than its tolerance.
    """
    report = progress or (lambda _phase: None)
    report("comparing every file with the manifest")
    opened = open_bundle(path)
    report("comparing the models with the manifest")
    sources = {part: _check_part(opened, part, entry) for part, entry in opened.manifest.parts.items()}
    for engine in opened.manifest.engines:
        _check_engine(opened, engine.file, sources[engine.of])
    read_self_test(opened)
    libraries = {entry.file: _installed(entry) for entry in opened.manifest.libraries}
    with preferred(path for path in libraries.values() if path is not None):
        checks = run_self_test(opened, self_test, report) if self_test else ()
    manifest = opened.manifest
    return VerifyResult(
        bundle=opened.path,
        task=manifest.task,
        precision=manifest.precision,
        files=len(manifest.files) + 1,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        parts=tuple(manifest.parts),
        engines={engine.file: engine.architectures for engine in manifest.engines},
        runtime=self_test,
        checks=checks,
        libraries=libraries,
    )


def _installed(entry: LibraryEntry) -> Path | None:
    """Return where a library is installed; None for one that this machine may do without.

    Raises:
        MissingDependencyError: it is not installed, or another one is.
    """
    try:
        return installed(entry)
    except MissingDependencyError:
        if entry.adapter == NEEDED_HERE:
            raise
        return None


def _check_part(opened: Bundle, part: str, entry: ModelEntry | DecodeEntry) -> FileFacts:
    """Compare an ONNX file, and its form for CPUs, with the entry; weights outside it must be files of the bundle."""
    source = open_model(opened.file(entry.file)).facts
    for name in source.external_data:
        if name not in opened.manifest.files:
            raise BadInputError(f"{source.path} keeps weights in {name}, which the manifest does not list", _AGAIN)
    same = (source.inputs, source.outputs, source.precision) == (
        entry.inputs,
        entry.outputs,
        opened.manifest.precision,
    )
    if not same or (isinstance(entry, DecodeEntry) and opened.manifest.state != source.state()):
        raise BadInputError(f"{source.path} is not the {part} that the manifest describes", _AGAIN)
    if entry.cpu_file is not None:
        check_variant(source, opened.file(entry.cpu_file))
    return source


def _check_engine(opened: Bundle, name: str, source: FileFacts) -> None:
    """Compare an engine's side file with the engine and with the ONNX file that it names."""
    path = opened.file(name)
    found = read_side_file(path)
    if found.engine_sha256 != sha256(path) or found.source.sha256 != source.sha256:
        raise BadInputError(f"{path} is not the engine that its side file describes, or of another model", _AGAIN)
