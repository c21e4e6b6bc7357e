"""A bundle's `manifest.json`: its types, and what is checked beyond them.

`manifest.schema.gen.json`, generated from these types, says the same to readers in other languages. Unknown fields are
refused: whoever adds one raises the schema's number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from ..dtypes import ELEMENT_TYPES
from ..errors import BadInputError
from ..files import sha256
from .document import Document, converted, inlined_schema, one_line, parsed
from .profile import Profile
from .state_spec import FirstState, StateSpec
from .tensor import Tensor

FORMAT: Literal["hsm-bundle"] = "hsm-bundle"
# Of a bundle without libraries of operators, which earlier versions read, and of one with some.
SCHEMA: Literal[1] = 1
LIBRARIES_SCHEMA: Literal[2] = 2
MANIFEST = "manifest.json"
MODEL: Literal["model.onnx"] = "model.onnx"
DECODE: Literal["decode.onnx"] = "decode.onnx"
CPU_VARIANTS = {"model": "model.cpu.onnx", "decode": "decode.cpu.onnx"}
TOKENIZER: Literal["tokenizer.json"] = "tokenizer.json"
SENTENCEPIECE: Literal["tokenizer.model"] = "tokenizer.model"
CHARACTERS: Literal["characters.json"] = "characters.json"
RWKV_VOCABULARY: Literal["rwkv_vocab.txt"] = "rwkv_vocab.txt"
SELF_TEST: Literal["self-test.safetensors"] = "self-test.safetensors"
ENGINES = "engines"
MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
_AGAIN = "write the bundle again"
# What the C++ runtime and Triton take.
DTYPES = tuple(item.name for item in ELEMENT_TYPES if item.triton)

# What every file system and every reader takes; an engine and its side file lie one level down. Python's `$` also
# matches before a line's end, which is why it is forbidden to follow.
_END = r"$(?!\n)"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}"
FileName = Annotated[str, Meta(pattern=f"^(engines/)?{_NAME}{_END}")]
EngineName = Annotated[str, Meta(pattern=f"^engines/{_NAME}\\.engine{_END}")]
LibraryName = Annotated[
    str, Meta(pattern=rf"^lib[A-Za-z_][A-Za-z0-9_]{{0,99}}_(onnxruntime|onnxruntime_cuda|tensorrt)\.so{_END}")
]
Sha256 = Annotated[str, Meta(pattern=f"^[0-9a-f]{{64}}{_END}")]
Architecture = Annotated[str, Meta(pattern=rf"^sm[0-9]{{2,3}}\+?{_END}")]
Version = Annotated[str, Meta(pattern=rf"^[0-9]+(\.[0-9]+){{1,3}}{_END}")]
OperatorName = Annotated[str, Meta(pattern=rf"^[A-Za-z][A-Za-z0-9_.]{{0,79}}::[A-Za-z_][A-Za-z0-9_]{{0,79}}{_END}")]
OutputName = Annotated[str, Meta(pattern=r"^(model|decode)\.")]
Part = Literal["model", "decode"]
Adapter = Literal["onnxruntime", "onnxruntime_cuda", "tensorrt"]
Task = Literal["language_model", "classification", ""]
Precision = Literal["fp32", "fp16", "bf16"]
# What a struct does not say: which types bundles know, and that sizes and names are never empty.
_TENSOR = {
    "name": {"minLength": 1},
    "dtype": {"enum": list(DTYPES)},
    "shape": {"items": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "minLength": 1}]}},
}
Tensors = Annotated[
    tuple[Tensor, ...],
    Meta(min_length=1, extra_json_schema={"allOf": [{"items": {"properties": _TENSOR}}]}),
]
# Of this version's schema or the first one, which a struct cannot say: `Manifest.state` reads it.
_STATES = [
    {"required": ["schema"], "properties": {"schema": {"const": number}}, "allOf": [inlined_schema(kind, ("model",))]}
    for number, kind in ((2, StateSpec), (1, FirstState))
]
State = Annotated[dict[str, Any], Meta(extra_json_schema={"anyOf": _STATES})]
_LIBRARY = re.compile(r".*\.(so(\.[0-9.]+)?|dll|dylib|pyd)", re.IGNORECASE)


class ModelEntry(Document, frozen=True):
    """The model that reads whole sequences: its file, inputs and outputs.

    `cpu_file` is an equal graph in types that CPUs compute in, for models whose own they lack (bf16).
    """

    file: Literal["model.onnx"]
    cpu_file: Literal["model.cpu.onnx"] | None
    inputs: Tensors
    outputs: Tensors


class DecodeEntry(Document, frozen=True):
    """The model that reads pieces with a state; `state` is what `StateSpec.to_document` returns."""

    file: Literal["decode.onnx"]
    cpu_file: Literal["decode.cpu.onnx"] | None
    inputs: Tensors
    outputs: Tensors
    state: State


class EngineEntry(Document, frozen=True):
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

    file: EngineName
    of: Part
    target: Literal["tensorrt", "tensorrt-rtx"]
    version: Version
    architectures: tuple[Architecture, ...]
    plugins: bool
    embedded_plugins: bool
    profiles: tuple[Profile, ...]


class BytesTokenizer(Document, frozen=True, tag="bytes", tag_field="kind"):
    """Token ids are the bytes of UTF-8 text."""

    kind: ClassVar[str] = "bytes"


class CharactersTokenizer(Document, frozen=True, tag="characters", tag_field="kind"):
    """Token ids stand for characters: `{"characters": TEXT}` lists them by id."""

    kind: ClassVar[str] = "characters"

    file: Literal["characters.json"]


class RwkvTokenizer(Document, frozen=True, tag="rwkv", tag_field="kind"):
    """The vocabulary of RWKV's World models, lines `ID LITERAL LENGTH`."""

    kind: ClassVar[str] = "rwkv"

    file: Literal["rwkv_vocab.txt"]


class SentencePieceTokenizer(Document, frozen=True, tag="sentencepiece", tag_field="kind"):
    """A `.model` file of Google's SentencePiece."""

    kind: ClassVar[str] = "sentencepiece"

    file: Literal["tokenizer.model"]


class HuggingFaceTokenizer(Document, frozen=True, tag="huggingface", tag_field="kind"):
    """A `tokenizer.json` of Hugging Face's library."""

    kind: ClassVar[str] = "huggingface"

    file: Literal["tokenizer.json"]


TokenizerEntry = BytesTokenizer | CharactersTokenizer | RwkvTokenizer | SentencePieceTokenizer | HuggingFaceTokenizer


class SelfTestEntry(Document, frozen=True):
    """Inputs and right outputs, and the largest absolute error of each output, by its name in the file."""

    file: Literal["self-test.safetensors"]
    tolerances: Annotated[dict[OutputName, Annotated[float, Meta(ge=0)]], Meta(min_length=1)]


class LibraryEntry(Document, frozen=True):
    """A library of operators that are not ours. It is installed where the bundle runs, and not in the bundle.

    Attributes:
        file: its name, lib<name>_<adapter>.so.
        adapter: the runtime that loads it.
        sha256: of its bytes; another library of that name is refused.
        operators: those of the bundle's models that it runs, "acme::DecayMix".
    """

    file: LibraryName
    adapter: Adapter
    sha256: Sha256
    operators: Annotated[tuple[OperatorName, ...], Meta(min_length=1)]


class FileEntry(Document, frozen=True):
    """What a file must be."""

    bytes: Annotated[int, Meta(ge=0, lt=2**53)]
    sha256: Sha256

    @staticmethod
    def of(path: Path) -> FileEntry:
        """Describe a file as it is now."""
        return FileEntry(path.stat().st_size, sha256(path))


class Manifest(Document, frozen=True):
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
    task: Task
    precision: Precision
    model: ModelEntry | None
    decode: DecodeEntry | None
    engines: tuple[EngineEntry, ...]
    tokenizer: TokenizerEntry | None
    self_test: SelfTestEntry
    files: dict[FileName, FileEntry]
    libraries: tuple[LibraryEntry, ...] = ()

    @property
    def parts(self) -> dict[Part, ModelEntry | DecodeEntry]:
        """The ONNX files that there are, by "model" and "decode"."""
        found: dict[Part, ModelEntry | DecodeEntry] = {}
        if self.model is not None:
            found["model"] = self.model
        if self.decode is not None:
            found["decode"] = self.decode
        return found

    @property
    def state(self) -> StateSpec | None:
        """What a sequence carries from call to call; None without a decoding model."""
        return None if self.decode is None else StateSpec.from_document(self.decode.state)

    def to_json(self) -> str:
        """Return the text of the file."""
        data = self.to_dict()
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
    if len(data) > MAX_BYTES:
        raise BadInputError(f"{where} is larger than {MAX_BYTES >> 20} MB")
    document = parsed(data, where, "copy the bundle again", levels=MAX_DEPTH)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInputError(f"{where} is not the manifest of an {FORMAT}", "name the folder of a bundle")
    schema = document.get("schema")
    if type(schema) is not int or schema not in (SCHEMA, LIBRARIES_SCHEMA):
        raise BadInputError(
            f"{where} has schema {one_line(repr(schema))}; this version reads {SCHEMA} and {LIBRARIES_SCHEMA}",
            "use the version of hsm-export that wrote the bundle",
        )
    manifest = converted(document, Manifest, where, "the manifest of a bundle", _AGAIN)
    problem = next(_problems(manifest), None)
    if problem:
        raise BadInputError(f"{where}: {one_line(problem)}", _AGAIN)
    return manifest


def side_file(engine: str) -> str:
    """Return the name of an engine's side file in a bundle."""
    return f"{engine}.json"


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
    for output in manifest.self_test.tolerances:
        if output.partition(".")[0] not in manifest.parts:
            yield f"the self-test has a tolerance for {output!r}"


def _wrong_libraries(manifest: Manifest) -> Iterator[str]:
    if bool(manifest.libraries) != (manifest.schema == LIBRARIES_SCHEMA):
        yield f"schema {manifest.schema} and {len(manifest.libraries)} libraries contradict each other"
    names = [library.file for library in manifest.libraries]
    if len(set(names)) != len(names):
        yield "a library is described twice"
    for library in manifest.libraries:
        if not library.file.endswith(f"_{library.adapter}.so") or library.file.startswith("libhsm_"):
            yield f"the library {library.file!r} is not named lib<name>_{library.adapter}.so"


def _wrong_files(manifest: Manifest) -> Iterator[str]:
    for name in manifest.files:
        if name == MANIFEST:
            yield f"the file name {name!r} is not allowed in a bundle"
        if _LIBRARY.fullmatch(name):
            yield f"{name} is a shared library, which has no place in a bundle"
    engines = [engine.file for engine in manifest.engines]
    if len(set(engines)) != len(engines):
        yield "an engine is described twice"
    beside = {*engines, *map(side_file, engines)}
    graphs = [name for entry in manifest.parts.values() for name in (entry.file, entry.cpu_file) if name is not None]
    named: list[str] = [*graphs, manifest.self_test.file, *sorted(beside)]
    if manifest.tokenizer is not None and not isinstance(manifest.tokenizer, BytesTokenizer):
        named.append(manifest.tokenizer.file)
    for name in named:
        if name not in manifest.files:
            yield f"{name!r} is not among its files"
    for name in manifest.files:
        if name.startswith(f"{ENGINES}/") and name not in beside:
            yield f"{name} belongs to no engine"


def _wrong_part(part: str, entry: ModelEntry | DecodeEntry) -> Iterator[str]:
    for kind, tensors in (("inputs", entry.inputs), ("outputs", entry.outputs)):
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
        state = StateSpec.from_document(entry.state)
    except BadInputError as error:
        yield f"decode.state: {error.message}"
        return
    inputs, outputs = ({tensor.name: tensor for tensor in tensors} for tensors in (entry.inputs, entry.outputs))
    for name, rank in (("tokens", 2), ("position", 1), ("lengths", 1)):
        found = inputs.pop(name, None)
        if found is None or found.dtype != "int64" or len(found.shape) != rank:
            yield f"decode lacks the input {name!r} of int64 and rank {rank}"
    logits = outputs.get("logits")
    if logits is None or logits.dtype != "float32" or len(logits.shape) != 3 or not isinstance(logits.shape[2], int):
        yield "decode lacks the output 'logits' of float32 (batch, length, vocabulary)"
    for tensor in state.tensors:
        if inputs.pop(tensor.past, None) is None or tensor.present not in outputs:
            yield f"decode.state has the tensor {tensor.name}, which the decoding model lacks, or has it twice"
    for name in inputs:
        yield f"the input {name!r} of decode belongs to no state"


def _wrong_engine(engine: EngineEntry, manifest: Manifest) -> Iterator[str]:
    if engine.of not in manifest.parts:
        yield f"{engine.file} was built from {engine.of}, which is not in the bundle"
    if engine.embedded_plugins and not engine.plugins:
        yield f"{engine.file} has embedded plugins and no plugins"
    for profile in engine.profiles:
        if not all(1 <= sizes.min <= sizes.opt <= sizes.max for sizes in profile.values()):
            yield f"{engine.file} has a profile whose sizes do not increase"
