"""A bundle's `manifest.json`: its types, and how it is read and written.

The types below are the schema; `manifest.schema.json` says the same to readers in other languages. Unknown fields are
refused: whoever adds one raises the schema's number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hsm_models.dataclass_json import build_dataclass
from hsm_models.errors import ConfigError

from ..dtypes import ELEMENT_TYPES
from ..errors import BadInputError
from ..files import sha256
from .profile import Range
from .result import plain
from .state_spec import StateSpec
from .tensor import Tensor

FORMAT: Literal["hsm-bundle"] = "hsm-bundle"
# Of a bundle without libraries of operators, which earlier versions read, and of one with some.
SCHEMA: Literal[1] = 1
LIBRARIES_SCHEMA: Literal[2] = 2
MANIFEST, MODEL, DECODE = "manifest.json", "model.onnx", "decode.onnx"
CPU_VARIANTS = {"model": "model.cpu.onnx", "decode": "decode.cpu.onnx"}
TOKENIZER, SELF_TEST, ENGINES = "tokenizer.json", "self-test.safetensors", "engines"
MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
_MOST_SHOWN = 300
# What the C++ runtime and Triton take.
DTYPES = tuple(item.name for item in ELEMENT_TYPES if item.triton)

# What every file system and every reader takes; an engine and its side file lie one level down.
_FILE = re.compile(r"(engines/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_ENGINE = re.compile(r"engines/.+\.engine")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHITECTURE = re.compile(r"sm[0-9]{2,3}\+?")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){1,3}")
_LIBRARY = re.compile(r".*\.(so(\.[0-9.]+)?|dll|dylib|pyd)", re.IGNORECASE)
_OPERATORS_LIBRARY = re.compile(r"lib[A-Za-z_][A-Za-z0-9_]{0,99}_(onnxruntime|onnxruntime_cuda|tensorrt)\.so")
_OPERATOR = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,79}::[A-Za-z_][A-Za-z0-9_]{0,79}")


@dataclass(frozen=True)
class ModelEntry:
    """The model that reads whole sequences: its file, inputs and outputs.

    `cpu_file` is an equal graph in types that CPUs compute in, for models whose own they lack (bf16).
    """

    file: str
    cpu_file: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class DecodeEntry:
    """The model that reads pieces with a state; `state` is what `StateSpec.to_json` writes."""

    file: str
    cpu_file: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class EngineEntry:
    """A compiled engine.

    Attributes:
        file: "engines/NAME.engine"; its side file lies beside it.
        of: "model" or "decode", whose graph it was built from.
        target: "tensorrt" or "tensorrt-rtx".
        version: of that library; it must be the same at run time.
        architectures: such as "sm86", or "sm80+" for that and all newer ones.
        plugins: it needs the plugin library.
        embedded_plugins: it holds the plugin library, native code: readers load it only when told to.
        profiles: sizes of the dynamic dimensions.
    """

    file: str
    of: Literal["model", "decode"]
    target: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    architectures: tuple[str, ...]
    plugins: bool
    embedded_plugins: bool
    profiles: tuple[Mapping[str, Range], ...]


@dataclass(frozen=True)
class BytesTokenizer:
    """Token ids are the bytes of UTF-8 text."""

    kind: Literal["bytes"]


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """A `tokenizer.json` of Hugging Face's library."""

    kind: Literal["huggingface"]
    file: str


@dataclass(frozen=True)
class SelfTestEntry:
    """Inputs and right outputs, and the largest absolute error of each output, by its name in the file."""

    file: str
    tolerances: Mapping[str, float]


@dataclass(frozen=True)
class LibraryEntry:
    """A library of operators that are not ours. It is installed where the bundle runs, and not in the bundle.

    Attributes:
        file: its name, lib<name>_<adapter>.so.
        adapter: the runtime that loads it.
        sha256: of its bytes; another library of that name is refused.
        operators: those of the bundle's models that it runs, "acme::DecayMix".
    """

    file: str
    adapter: Literal["onnxruntime", "onnxruntime_cuda", "tensorrt"]
    sha256: str
    operators: tuple[str, ...]


@dataclass(frozen=True)
class FileEntry:
    """What a file must be."""

    bytes: int = field(metadata={"limit": 2**53})
    sha256: str

    @staticmethod
    def of(path: Path) -> FileEntry:
        """Describe a file as it is now."""
        return FileEntry(path.stat().st_size, sha256(path))


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself; see docs/bundle.md.

    Attributes:
        hsm_export: version of this package that wrote it.
        task: "language_model", "classification", or "" for a model that does not say.
        precision: type of the weights and activations.
        files: every file of the bundle but the manifest, by its name in the bundle.
        libraries: those of operators that are not ours; schema 2 has some, schema 1 none.
    """

    format: Literal["hsm-bundle"]
    schema: Literal[1, 2]
    hsm_export: str
    task: Literal["language_model", "classification", ""]
    precision: Literal["fp32", "fp16", "bf16"]
    model: ModelEntry | None
    decode: DecodeEntry | None
    engines: tuple[EngineEntry, ...]
    tokenizer: BytesTokenizer | HuggingFaceTokenizer | None
    self_test: SelfTestEntry
    files: Mapping[str, FileEntry]
    libraries: tuple[LibraryEntry, ...] = ()

    @property
    def parts(self) -> dict[str, ModelEntry | DecodeEntry]:
        """The ONNX files that there are, by "model" and "decode"."""
        both = {"model": self.model, "decode": self.decode}
        return {name: entry for name, entry in both.items() if entry is not None}

    @property
    def state(self) -> StateSpec | None:
        """What a sequence carries from call to call; None without a decoding model."""
        return None if self.decode is None else StateSpec.from_json(json.dumps(self.decode.state))

    def to_json(self) -> str:
        """Return the text of the file."""
        data = plain(self)
        if self.schema == SCHEMA:
            del data["libraries"]
        return json.dumps(data, indent=1, allow_nan=False) + "\n"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest that anybody may have written.

    Args:
        data: the file's bytes.
        where: the file's name, for errors.

    Raises:
        BadInputError: it is too large, no JSON, nested too deeply, of another schema, or says anything unknown,
            unsafe or contradictory.
    """
    document = _document(data, where)
    if document.get("format") != FORMAT:
        raise BadInputError(f"{where} is not the manifest of an {FORMAT}", "name the folder of a bundle")
    schema = document.get("schema")
    if type(schema) is not int or schema not in (SCHEMA, LIBRARIES_SCHEMA):
        raise BadInputError(
            f"{where} has schema {one_line(repr(schema))}; this version reads {SCHEMA} and {LIBRARIES_SCHEMA}",
            "use the version of hsm-export that wrote the bundle",
        )
    try:
        manifest = build_dataclass(Manifest, document, "manifest")
    except ConfigError as error:
        raise BadInputError(f"{where}: {one_line(str(error))}", "write the bundle again") from error
    problem = next(_problems(manifest), None)
    if problem:
        raise BadInputError(f"{where}: {one_line(problem)}", "write the bundle again")
    return manifest


def one_line(text: str) -> str:
    """Return what a stranger wrote as something that can be shown: short, and nothing that steers a terminal."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:_MOST_SHOWN])
    return shown if len(text) <= _MOST_SHOWN else f"{shown} ..."


def side_file(engine: str) -> str:
    """Return the name of an engine's side file in a bundle."""
    return f"{engine}.json"


def _document(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object, in which no name may come twice."""
    if len(data) > MAX_BYTES:
        raise BadInputError(f"{where} is larger than {MAX_BYTES >> 20} MB")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where} is not valid JSON: {one_line(str(error))}", "copy the bundle again") from error
    if not isinstance(document, dict):
        raise BadInputError(f"{where} is not a JSON object", "name the folder of a bundle")
    if _deeper(document, MAX_DEPTH):
        raise BadInputError(f"{where} is nested deeper than {MAX_DEPTH} levels")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return dict(pairs)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def _deeper(value: Any, levels: int) -> bool:
    """Say whether a value is nested deeper than so many levels."""
    if not isinstance(value, (dict, list)):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inside)


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with a manifest whose types are right."""
    if not manifest.parts:
        yield "it has neither a model nor a decoding model"
    yield from _wrong_files(manifest)
    for part, entry in manifest.parts.items():
        yield from _wrong_part(part, entry)
    for engine in manifest.engines:
        yield from _wrong_engine(engine, manifest)
    yield from _wrong_libraries(manifest)
    for output, tolerance in manifest.self_test.tolerances.items():
        if output.partition(".")[0] not in manifest.parts or not tolerance > 0 or not math.isfinite(tolerance):
            yield f"the self-test has the tolerance {tolerance!r} for {output!r}"
    if not manifest.self_test.tolerances:
        yield "the self-test compares nothing"


def _wrong_libraries(manifest: Manifest) -> Iterator[str]:
    if bool(manifest.libraries) != (manifest.schema == LIBRARIES_SCHEMA):
        yield f"schema {manifest.schema} and {len(manifest.libraries)} libraries contradict each other"
    names = [library.file for library in manifest.libraries]
    if len(set(names)) != len(names):
        yield "a library is described twice"
    for library in manifest.libraries:
        named = _OPERATORS_LIBRARY.fullmatch(library.file)
        if named is None or named[1] != library.adapter or library.file.startswith("libhsm_"):
            yield f"the library {library.file!r} is not named lib<name>_{library.adapter}.so"
        if not _SHA256.fullmatch(library.sha256):
            yield f"the SHA-256 of {library.file} is malformed"
        if not library.operators or not all(map(_OPERATOR.fullmatch, library.operators)):
            yield f"{library.file} has the operators {list(library.operators)}"


def _wrong_files(manifest: Manifest) -> Iterator[str]:
    for name, listed in manifest.files.items():
        if not _FILE.fullmatch(name) or name == MANIFEST:
            yield f"the file name {name!r} is not allowed in a bundle"
        if _LIBRARY.fullmatch(name):
            yield f"{name} is a shared library, which has no place in a bundle"
        if listed.bytes < 0 or not _SHA256.fullmatch(listed.sha256):
            yield f"the size or SHA-256 of {name} is malformed"
    expected = {part: name for part, name in (("model", MODEL), ("decode", DECODE)) if part in manifest.parts}
    for part, name in expected.items():
        entry = manifest.parts[part]
        if entry.file != name:
            yield f"{part}.file is {entry.file!r}, not {name}"
        if entry.cpu_file not in (None, CPU_VARIANTS[part]):
            yield f"{part}.cpu_file is {entry.cpu_file!r}, not {CPU_VARIANTS[part]}"
    if manifest.self_test.file != SELF_TEST:
        yield f"self_test.file is {manifest.self_test.file!r}, not {SELF_TEST}"
    if isinstance(manifest.tokenizer, HuggingFaceTokenizer) and manifest.tokenizer.file != TOKENIZER:
        yield f"tokenizer.file is {manifest.tokenizer.file!r}, not {TOKENIZER}"
    yield from _unlisted(manifest)


def _unlisted(manifest: Manifest) -> Iterator[str]:
    engines = [engine.file for engine in manifest.engines]
    if len(set(engines)) != len(engines):
        yield "an engine is described twice"
    beside = {*engines, *map(side_file, engines)}
    graphs = [name for entry in manifest.parts.values() for name in (entry.file, entry.cpu_file) if name is not None]
    named = [*graphs, manifest.self_test.file, *sorted(beside)]
    if isinstance(manifest.tokenizer, HuggingFaceTokenizer):
        named.append(manifest.tokenizer.file)
    for name in named:
        if name not in manifest.files:
            yield f"{name!r} is not among its files"
    for name in manifest.files:
        if name.startswith(f"{ENGINES}/") and name not in beside:
            yield f"{name} belongs to no engine"


def _wrong_part(part: str, entry: ModelEntry | DecodeEntry) -> Iterator[str]:
    for kind, tensors in (("inputs", entry.inputs), ("outputs", entry.outputs)):
        if not tensors:
            yield f"{part} has no {kind}"
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != len(names):
            yield f"a name comes twice among the {kind} of {part}"
        for tensor in tensors:
            sizes_right = all(size > 0 if isinstance(size, int) else size for size in tensor.shape)
            if not tensor.name or tensor.dtype not in DTYPES or not sizes_right:
                yield f"{part}.{kind} describes {tensor.name!r} as {tensor.dtype!r} {list(tensor.shape)}"
    if isinstance(entry, DecodeEntry):
        yield from _wrong_state(entry)


def _wrong_state(entry: DecodeEntry) -> Iterator[str]:
    try:
        state = StateSpec.from_json(json.dumps(entry.state))
    except BadInputError as error:
        yield f"decode.state: {error.message}"
        return
    inputs, outputs = ({tensor.name for tensor in tensors} for tensors in (entry.inputs, entry.outputs))
    for tensor in state.tensors:
        if tensor.past not in inputs or tensor.present not in outputs:
            yield f"decode.state has the tensor {tensor.name}, which the decoding model lacks"


def _wrong_engine(engine: EngineEntry, manifest: Manifest) -> Iterator[str]:
    if not _ENGINE.fullmatch(engine.file):
        yield f"the engine {engine.file!r} is not named {ENGINES}/NAME.engine"
    if engine.of not in manifest.parts:
        yield f"{engine.file} was built from {engine.of}, which is not in the bundle"
    if not _VERSION.fullmatch(engine.version):
        yield f"{engine.file} has the version {engine.version!r}"
    if not all(map(_ARCHITECTURE.fullmatch, engine.architectures)):
        yield f"{engine.file} is for the architectures {', '.join(engine.architectures)}"
    if engine.embedded_plugins and not engine.plugins:
        yield f"{engine.file} has embedded plugins and no plugins"
    for profile in engine.profiles:
        if not all(1 <= sizes.min <= sizes.opt <= sizes.max for sizes in profile.values()):
            yield f"{engine.file} has a profile whose sizes do not increase"
