"""What goes into a bundle: ONNX files, engines and a tokenizer, checked against each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..decoding.tokenizer import check_vocabulary, open_tokenizer
from ..dtypes import EXPORTED_PRECISIONS
from ..errors import BadInputError, MissingDependencyError, UsageError
from ..files import require_file, sha256
from ..formats.bundle_manifest import (
    CHARACTERS,
    DECODE,
    DTYPES,
    ENGINES,
    MODEL,
    RWKV_VOCABULARY,
    SENTENCEPIECE,
    TOKENIZER,
    BytesTokenizer,
    CharactersTokenizer,
    DecodeEntry,
    EngineEntry,
    HuggingFaceTokenizer,
    ModelEntry,
    Part,
    RwkvTokenizer,
    SentencePieceTokenizer,
    TokenizerEntry,
)
from ..formats.engine_file import EngineFile, SourceFile, read_side_file
from ..formats.state_spec import StateSpec
from ..formats.tensor import ANY_SHAPE
from ..formats.tokenizer_file import BYTES, TokenizerKind, characters_of, tokenizer_kind, tokenizer_of
from ..onnx_model.model_file import FileFacts, open_model

_TASKS = {"language_model": "language_model", "sequence_classifier": "classification"}
_GPU = re.compile(r"\((sm[0-9]+)\)$")


@dataclass(frozen=True)
class Engine:
    """An engine to be bundled.

    Attributes:
        path: its file.
        entry: what the manifest says of it.
        libraries: SHA-256 of the plugin libraries that it was built with and needs, by name.
    """

    path: Path
    entry: EngineEntry
    libraries: Mapping[str, str]


@dataclass(frozen=True)
class Parts:
    """The ONNX files of a bundle.

    Attributes:
        model: the one that reads whole sequences.
        decode: the one that reads pieces with a state.
    """

    model: FileFacts | None
    decode: FileFacts | None

    @property
    def sources(self) -> dict[Part, FileFacts]:
        """Those that there are, by "model" and "decode"."""
        both: dict[Part, FileFacts | None] = {"model": self.model, "decode": self.decode}
        return {part: source for part, source in both.items() if source is not None}

    @property
    def any(self) -> FileFacts:
        """One of them, for what both have in common."""
        return next(iter(self.sources.values()))

    @property
    def task(self) -> str:
        """The task as bundles name it."""
        return _TASKS.get(self.any.metadata.get("task", ""), "")

    @property
    def state(self) -> StateSpec | None:
        """What a sequence carries from call to call."""
        return None if self.decode is None else self.decode.state()

    def model_entry(self, for_cpus: bool) -> ModelEntry | None:
        """Return the manifest's entry of the model, which may have a graph for CPUs."""
        if self.model is None:
            return None
        return ModelEntry(MODEL, "model.cpu.onnx" if for_cpus else None, self.model.inputs, self.model.outputs)

    def decode_entry(self, for_cpus: bool) -> DecodeEntry | None:
        """Return the manifest's entry of the decoding model, which may have a graph for CPUs."""
        if self.decode is None:
            return None
        of, state = self.decode, self.decode.state().to_document()
        return DecodeEntry(DECODE, "decode.cpu.onnx" if for_cpus else None, of.inputs, of.outputs, state)


def read_parts(model: str | Path | None, decode: str | Path | None) -> Parts:
    """Read the ONNX files.

    Raises:
        UsageError: there is none, or each is named in the place of the other.
        BadInputError: a file cannot be used, or the two do not belong together.
    """
    if model is None and decode is None:
        raise UsageError("there is nothing to bundle", "name an ONNX file, or one with --decode, or both")
    parts = Parts(*(_opened(path) if path is not None else None for path in (model, decode)))
    if parts.model is not None and parts.model.metadata.get("decode") == "1":
        raise UsageError(f"{parts.model.path} is a decoding file", f"name it with --decode {parts.model.path}")
    if parts.decode is not None:
        parts.decode.state()
    _check_pair(parts)
    return parts


def _opened(path: str | Path) -> FileFacts:
    """Open a file that a bundle can hold.

    Raises:
        BadInputError: it cannot be used, or an input or output has a type that bundles do not know.
    """
    facts = open_model(path).facts
    if not facts.inputs:
        raise BadInputError(f"{path} has no inputs, and a bundle's models have some")
    for tensor in (*facts.inputs, *facts.outputs):
        if tensor.dtype not in DTYPES or tensor.shape == ANY_SHAPE:
            what = f"is {tensor.dtype}" if tensor.dtype not in DTYPES else "has no shape"
            raise BadInputError(
                f"{path}: {tensor.name} {what}; bundles hold tensors with a shape of {', '.join(DTYPES)}",
                "cast it in the graph, or cut the graph there with onnx.utils.extract_model",
            )
    if facts.precision not in EXPORTED_PRECISIONS:
        raise BadInputError(
            f"{path} is in {facts.precision}; bundles hold models in {', '.join(EXPORTED_PRECISIONS)}",
            "export it in one of them",
        )
    return facts


def _check_pair(parts: Parts) -> None:
    if parts.model is None or parts.decode is None:
        return
    for key, what in (("source_sha256", "checkpoints"), ("precision", "precisions")):
        one, other = (source.metadata.get(key) for source in (parts.model, parts.decode))
        if one != other and one and other:
            raise BadInputError(
                f"{parts.model.path} and {parts.decode.path} are exports of different {what}",
                "export both from one checkpoint, in one precision",
            )


def read_engines(paths: Iterable[str | Path], parts: Parts) -> tuple[Engine, ...]:
    """Read the side files of engines.

    Raises:
        BadInputError: an engine or its side file is missing or damaged, it was built from another file, or two have
            the same name.
    """
    engines = tuple(_engine(require_file(path, "the engine"), parts) for path in paths)
    names = [engine.entry.file for engine in engines]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise BadInputError(f"two engines are called {Path(twice).name}", "rename one together with its side file")
    return engines


def _engine(path: Path, parts: Parts) -> Engine:
    found = read_side_file(path)
    if sha256(path) != found.engine_sha256:
        raise BadInputError(f"{path} is not the engine that its side file describes", "build the engine again")
    part = _built_from(path, found.source, parts)
    if found.strip_weights:
        raise BadInputError(f"{path} holds no weights", "bundle an engine that was built without --strip-weights")
    entry = EngineEntry(
        file=f"{ENGINES}/{path.with_suffix('.engine').name}",
        of=part,
        target=found.target,
        version=found.target_version,
        architectures=_architectures(found),
        plugins=found.plugins is not None,
        embedded_plugins=found.plugins is not None and found.plugins.embedded,
        profiles=found.profiles,
    )
    return Engine(path, entry, found.libraries)


def _built_from(path: Path, engine: SourceFile, parts: Parts) -> Part:
    for part, source in parts.sources.items():
        if (engine.sha256, engine.external_data) == (source.sha256, source.external_data):
            return part
    named = " or ".join(str(source.path) for source in parts.sources.values())
    raise BadInputError(f"{path} was built from another file than {named}", "build it again from the file to bundle")


def _architectures(engine: EngineFile) -> tuple[str, ...]:
    """Return where an engine runs; TensorRT's run on the GPU they were built on, or on newer ones if built so."""
    if engine.architectures:
        return engine.architectures
    if engine.hardware_compatibility == "ampere+":
        return ("sm80+",)
    found = _GPU.search(engine.gpu or "")
    return (found.group(1),) if found else ()


def read_tokenizer(tokenizer: str | Path | None, parts: Parts) -> tuple[TokenizerEntry | None, bytes]:
    """Return the manifest's entry of a tokenizer, and what its file holds; nothing for bytes, which need none.

    Args:
        tokenizer: a file, see `open_tokenizer`, "bytes", or None: bytes for a language model of 256 token ids, else
            none.
        parts: the models.

    Raises:
        UsageError: the tokenizer's ids are not those of the model.
        BadInputError: the file is missing or no tokenizer.
    """
    vocabulary = _vocabulary(parts)
    if tokenizer is None:
        return (BytesTokenizer() if vocabulary == BYTES else None), b""
    if str(tokenizer) == "bytes":
        if vocabulary != BYTES:
            raise UsageError(
                f"the model has {vocabulary or 'no'} token ids, not the {BYTES} bytes", "give its tokenizer's file"
            )
        return BytesTokenizer(), b""
    path = require_file(tokenizer, "the tokenizer")
    kind = tokenizer_kind(path)
    _check_tokenizer(path, kind, vocabulary)
    if kind == "characters":
        document = {"characters": characters_of(path)}
        return CharactersTokenizer(CHARACTERS), json.dumps(document, ensure_ascii=False).encode()
    entries: dict[str, TokenizerEntry] = {
        "rwkv": RwkvTokenizer(RWKV_VOCABULARY),
        "sentencepiece": SentencePieceTokenizer(SENTENCEPIECE),
        "huggingface": HuggingFaceTokenizer(TOKENIZER),
    }
    return entries[kind], path.read_bytes()


def find_tokenizer(parts: Parts, against: object) -> tuple[Path | None, str]:
    """Return the tokenizer that lies beside a language model's checkpoint or its ONNX file, and a note about it.

    One that does not fit, or that cannot be checked here, is not taken, and the note says why.

    Args:
        parts: the models; of 256 token ids, which are bytes, none is looked for.
        against: the checkpoint that they were exported from, if that is known.
    """
    vocabulary = _vocabulary(parts)
    places = (against, *(source.path for source in parts.sources.values()))
    found = next((path for place in places if (path := tokenizer_of(place, vocabulary)) is not None), None)
    if found is None:
        return None, ""
    try:
        _check_tokenizer(found, tokenizer_kind(found), vocabulary)
    except (UsageError, BadInputError, MissingDependencyError) as error:
        return None, f"{found} was not taken as the tokenizer: {error}"
    return found, f"{found} was taken as the tokenizer"


def _vocabulary(parts: Parts) -> int | None:
    """Return the number of token ids of a language model, the last dimension of its logits."""
    if parts.task != "language_model":
        return None
    size = next((tensor.shape[-1] for tensor in parts.any.outputs if tensor.name == "logits"), None)
    return size if isinstance(size, int) else None


def _check_tokenizer(path: Path, kind: TokenizerKind, vocabulary: int | None) -> None:
    """Check a tokenizer as far as that is possible without the package that reads it."""
    from importlib.util import find_spec

    if kind in ("characters", "rwkv") or find_spec({"huggingface": "tokenizers"}.get(kind, kind)) is not None:
        check_vocabulary(open_tokenizer(path), vocabulary or 0)
        return
    if kind == "sentencepiece":
        raise MissingDependencyError(
            f"checking {path} needs the Python package sentencepiece", "pip install 'hsm-export[tokenizers]'"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
    if not isinstance(document, dict) or "model" not in document:
        raise BadInputError(f"{path} is not a Hugging Face tokenizer.json: it has no model")


def external_files(sources: Sequence[FileFacts]) -> dict[str, Path]:
    """Return the files of weights outside the ONNX files, by the name that those call them.

    Raises:
        BadInputError: two of them share a name but not their contents, or one lies in a folder of its own.
    """
    found: dict[str, tuple[Path, str]] = {}
    for source in sources:
        for name, digest in source.external_data.items():
            if Path(name).name != name:
                raise BadInputError(
                    f"{source.path} keeps its weights in a folder, {name}", "export it with its weights beside it"
                )
            if found.setdefault(name, (source.path.parent / name, digest))[1] != digest:
                raise BadInputError(
                    f"the model and the decoding model keep different weights in files called {name}",
                    "export one of them under another name",
                )
    return {name: path for name, (path, _) in found.items()}
