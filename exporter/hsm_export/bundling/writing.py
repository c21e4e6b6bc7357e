"""Write a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import BadInputError, UsageError
from ..files import atomic_directory, replace_directory
from ..formats.bundle_manifest import (
    CHARACTERS,
    CPU_VARIANTS,
    DECODE,
    ENGINES,
    FORMAT,
    LIBRARIES_SCHEMA,
    MANIFEST,
    MODEL,
    RWKV_VOCABULARY,
    SCHEMA,
    SELF_TEST,
    SENTENCEPIECE,
    TOKENIZER,
    BytesTokenizer,
    FileEntry,
    LibraryEntry,
    Manifest,
    Part,
    SelfTestEntry,
    TokenizerEntry,
    parse_manifest,
    side_file,
)
from ..formats.engine_file import side_file_path
from ..formats.result import Result
from ..onnx_model.cpu_variant import cpu_variant
from .opening import is_bundle
from .operator_libraries import needed_libraries
from .self_test import SelfTest, decode_self_test, model_self_test
from .shared_weights import share_weights
from .sources import Engine, Parts, external_files, find_tokenizer, read_engines, read_parts, read_tokenizer

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BundleResult(Result):
    """A bundle that was written.

    Attributes:
        bundle: its folder.
        task: "language_model", "classification" or "".
        precision: "fp32", "fp16" or "bf16".
        parts: "model" and "decode", as far as they are in it.
        engines: each engine's file and the architectures that it is for.
        tokenizer: "bytes", "characters", "rwkv", "sentencepiece", "huggingface" or None.
        files: number of files, the manifest included.
        bytes: size of all of them.
        arbiter: the runtime whose float64 numbers the self-test holds.
        tolerances: largest absolute error of each output of the self-test.
        libraries: SHA-256 of the libraries of operators that are not ours, which must be installed, by name.
        notes: operators that run as their bodies although they have kernels, and what to build; a tokenizer that was
            found beside the model.
    """

    bundle: Path
    task: str
    precision: str
    parts: tuple[str, ...]
    engines: Mapping[str, tuple[str, ...]]
    tokenizer: str | None
    files: int
    bytes: int
    arbiter: str
    tolerances: Mapping[str, float]
    libraries: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def bundle(
    model: str | Path | None = None,
    output: str | Path | None = None,
    *,
    engines: Sequence[str | Path] = (),
    decode: str | Path | None = None,
    tokenizer: str | Path | None = None,
    against: str | Path | nn.Module | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> BundleResult:
    """Write a folder with everything that a program needs to run a model, and the means to check it there.

    Args:
        model: the ONNX file that reads whole sequences; None when only `decode` is wanted.
        output: the bundle's folder; the model's name with the suffix `.hsm` when None.
        engines: engines that `build` made from one of the files, their side files beside them.
        decode: the ONNX file of `export(..., decode=True)`.
        tokenizer: a Hugging Face tokenizer.json, a .model of SentencePiece, a table of characters (see
            `hsm_export.decoding.tokenizer.open_tokenizer`), or "bytes"; None takes bytes where the model has 256
            token ids, else the tokenizer that lies beside the checkpoint `against` or the ONNX files, if it fits.
        against: checkpoint, `zoo:NAME` or module whose float64 numbers the self-test holds; None takes those of the
            file's own maths in float64.
        force: replace a bundle that is there already; anything else is never replaced.
        progress: receives the name of each phase.

    Raises:
        UsageError: nothing to bundle, or files named in each other's place.
        BadInputError: a file cannot be used, the files do not belong together, the model's numbers are not finite,
            or the folder cannot be made.
    """
    report = progress or (lambda _phase: None)
    folder = _output(model, decode, output)
    _check_output(folder, force)
    report("reading the files")
    parts = read_parts(model, decode)
    compiled = read_engines(engines, parts)
    found, note = find_tokenizer(parts, against) if tokenizer is None else (None, "")
    tokens, token_file = read_tokenizer(tokenizer or found, parts)
    weights = external_files(tuple(parts.sources.values()))
    plugins = {name: digest for engine in compiled for name, digest in engine.libraries.items()}
    libraries, notes = needed_libraries([source.path for source in parts.sources.values()], plugins)
    self_test = _self_test(parts, against, report)
    report("writing the bundle")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder.parent) as scratch:
        inside = scratch / folder.name
        inside.mkdir()
        _copy(inside, parts, weights, compiled)
        if tokens is not None and not isinstance(tokens, BytesTokenizer):
            (inside / tokens.file).write_bytes(token_file)
        variants = _write_cpu_variants(inside, parts)
        if len(parts.sources) == 2 and not any(engine.entry.of == "decode" for engine in compiled):
            decoding = [inside / name for name in (DECODE, variants.get("decode")) if name]
            share_weights(inside / MODEL, decoding)
        manifest = _describe(inside, parts, variants, compiled, tokens, self_test, libraries)
        replace_directory(inside, folder, scratch)
    return replace(_result(folder, manifest, self_test), notes=(*([note] if note else []), *notes))


def _output(model: str | Path | None, decode: str | Path | None, output: str | Path | None) -> Path:
    if output is not None:
        return Path(output)
    named = model if model is not None else decode
    if named is None:
        raise UsageError("there is nothing to bundle", "name an ONNX file, or one with --decode, or both")
    return Path(named).with_suffix(".hsm")


def _check_output(folder: Path, force: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        return
    if not is_bundle(folder) or folder.is_symlink():
        raise BadInputError(f"{folder} exists and is not a bundle", "name a new folder")
    if not force:
        raise BadInputError(f"{folder} exists already", "add --force to replace the bundle, or name a new folder")


def _self_test(parts: Parts, against: Any, report: Callable[[str], None]) -> SelfTest:
    tests = [
        compute(source.path, against, report)
        for compute, source in ((model_self_test, parts.model), (decode_self_test, parts.decode))
        if source is not None
    ]
    arrays = {name: array for test in tests for name, array in test.arrays.items()}
    tolerances = {name: value for test in tests for name, value in test.tolerances.items()}
    return SelfTest(arrays, tolerances, tests[0].arbiter)


def _copy(folder: Path, parts: Parts, weights: Mapping[str, Path], engines: Sequence[Engine]) -> None:
    """Copy everything that exists already, under the names that a bundle gives it.

    Weights outside an ONNX file keep their name, by which that file calls them.
    """
    copies = {name: parts.sources[part].path for part, name in _onnx_names(parts).items()}
    for name, path in weights.items():
        tokenizers = (TOKENIZER, SENTENCEPIECE, CHARACTERS, RWKV_VOCABULARY)
        if name in (*copies, *CPU_VARIANTS.values(), MANIFEST, SELF_TEST, *tokenizers):
            raise BadInputError(f"a file of weights is called {name}, as another file of bundles", "export it again")
        copies[name] = path
    if engines:
        (folder / ENGINES).mkdir()
    for engine in engines:
        copies[engine.entry.file] = engine.path
        copies[side_file(engine.entry.file)] = side_file_path(engine.path)
    for name, path in copies.items():
        shutil.copyfile(path, folder / name)


def _onnx_names(parts: Parts) -> dict[Part, str]:
    return {part: {"model": MODEL, "decode": DECODE}[part] for part in parts.sources}


def _write_cpu_variants(folder: Path, parts: Parts) -> dict[Part, str]:
    """Write the graphs for CPUs of those that need one; return their names by "model" and "decode"."""
    variants = {part: cpu_variant(source) for part, source in parts.sources.items()}
    written = {part: CPU_VARIANTS[part] for part, variant in variants.items() if variant is not None}
    for part, name in written.items():
        (folder / name).write_bytes(cast(Any, variants[part]).SerializeToString())
    return written


def _describe(
    folder: Path,
    parts: Parts,
    variants: Mapping[Part, str],
    engines: Sequence[Engine],
    tokenizer: TokenizerEntry | None,
    self_test: SelfTest,
    libraries: tuple[LibraryEntry, ...],
) -> Manifest:
    """Write the self-test, and the manifest, which describes all the other files; return what can be read back."""
    from safetensors.numpy import save

    (folder / SELF_TEST).write_bytes(save(dict(self_test.arrays)))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        format=FORMAT,
        schema=LIBRARIES_SCHEMA if libraries else SCHEMA,
        hsm_export=version("hsm-export"),
        task=cast(Any, parts.task),
        precision=cast(Any, parts.any.precision),
        model=parts.model_entry("model" in variants),
        decode=parts.decode_entry("decode" in variants),
        engines=tuple(engine.entry for engine in engines),
        tokenizer=tokenizer,
        self_test=SelfTestEntry(SELF_TEST, dict(self_test.tolerances)),
        files={name: FileEntry.of(folder / name) for name in names},
        libraries=libraries,
    )
    text = manifest.to_json().encode()
    (folder / MANIFEST).write_bytes(text)
    return parse_manifest(text, str(folder / MANIFEST))


def _result(folder: Path, manifest: Manifest, self_test: SelfTest) -> BundleResult:
    return BundleResult(
        bundle=folder,
        task=manifest.task,
        precision=manifest.precision,
        parts=tuple(manifest.parts),
        engines={engine.file: engine.architectures for engine in manifest.engines},
        tokenizer=manifest.tokenizer.kind if manifest.tokenizer else None,
        files=len(manifest.files) + 1,
        bytes=sum(entry.bytes for entry in manifest.files.values()) + (folder / MANIFEST).stat().st_size,
        arbiter=self_test.arbiter,
        tolerances=self_test.tolerances,
        libraries={library.file: library.sha256 for library in manifest.libraries},
    )
