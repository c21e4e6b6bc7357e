"""Text to token ids and back: bytes, characters, RWKV's vocabulary, SentencePiece, a Hugging Face tokenizer.json."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import BadInputError, MissingDependencyError, UsageError
from ..files import require_file
from ..formats.tokenizer_file import characters_of, tokenizer_kind, tokenizer_of
from .rwkv_vocabulary import read_vocabulary

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextStream(Protocol):
    """Turns the tokens of one sequence into text as they come, never a broken character."""

    def push(self, token: int) -> str:
        """Return the text that became certain with this token; "" while a character is incomplete."""
        ...

    def finish(self) -> str:
        """Return what is left, a replacement character for what never became a character."""
        ...


class Tokenizer(Protocol):
    """What generation needs of a tokenizer.

    Attributes:
        vocab_size: ids are 0..vocab_size-1.
    """

    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids."""
        ...

    def byte_count(self, tokens: Sequence[int]) -> int:
        """Return how many bytes of UTF-8 text these ids stand for."""
        ...

    def stream(self) -> TextStream:
        """Return a new stream, one a sequence."""
        ...


class BytesTokenizer:
    """Token ids are the bytes of UTF-8 text, as in the zoo's language models."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        """Return the text's UTF-8 bytes; bytes that the command line could not decode come back as they were."""
        return list(text.encode("utf-8", errors="surrogateescape"))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes, with replacement characters where they are not UTF-8."""
        return bytes(tokens).decode("utf-8", errors="replace")

    def byte_count(self, tokens: Sequence[int]) -> int:
        """Return the number of ids."""
        return len(tokens)

    def stream(self) -> TextStream:
        """Return a stream that holds bytes back until their character is complete."""
        return _ByteStream()


class _ByteStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes((token,)))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _OfPieces(ABC):
    """What tokenizers of pieces of text have in common: all is told by what ids decode to."""

    vocab_size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the text's ids."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids."""

    def byte_count(self, tokens: Sequence[int]) -> int:
        """Return the length of the ids' text in UTF-8."""
        return len(self.decode(tokens).encode("utf-8"))

    def stream(self) -> TextStream:
        """Return a stream that holds ids back while their text ends inside a character."""
        return _IdStream(self)


class CharactersTokenizer(_OfPieces):
    """Token ids stand for characters, as `hsm-export train --level char` makes them.

    Args:
        characters: the characters by id.

    Raises:
        BadInputError: none, or one twice.
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.vocab_size = len(characters)
        self._ids = {character: index for index, character in enumerate(characters)}
        if not characters:
            raise BadInputError("the tokenizer has no characters")
        if len(self._ids) < len(characters):
            twice = next(character for character in characters if characters.count(character) > 1)
            raise BadInputError(f"the tokenizer has the character U+{ord(twice):04X} twice")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's characters.

        Raises:
            UsageError: a character has none.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            point = ord(error.args[0])
            raise UsageError(f"the character U+{point:04X} is not one of the tokenizer's {self.vocab_size}") from None

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the characters; ids beyond them have no text."""
        return "".join(self.characters[token] for token in tokens if token < self.vocab_size)


class RwkvTokenizer(_OfPieces):
    """The vocabulary of RWKV's World models: of the tokens with which the rest of a text begins, the longest.

    Args:
        tokens: the bytes of each token by id, see `read_vocabulary`.
    """

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        self.vocab_size = max(tokens) + 1
        self._tokens = dict(tokens)
        self._ids = {token: index for index, token in tokens.items()}
        lengths: dict[int, set[int]] = {}
        for token in self._ids:
            lengths.setdefault(token[0], set()).add(len(token))
        self._lengths = {first: sorted(sizes, reverse=True) for first, sizes in lengths.items()}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's bytes.

        Raises:
            UsageError: no token begins with a byte.
        """
        data = text.encode("utf-8", errors="surrogateescape")
        ids: list[int] = []
        place = 0
        while place < len(data):
            sizes = self._lengths.get(data[place], ())
            found = next((index for size in sizes if (index := self._ids.get(data[place : place + size]))), None)
            if found is None:
                raise UsageError(f"the tokenizer has no token for the byte 0x{data[place]:02X}")
            ids.append(found)
            place += len(self._tokens[found])
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids, with replacement characters where their bytes are not UTF-8; others have no text."""
        return self._bytes(tokens).decode("utf-8", errors="replace")

    def byte_count(self, tokens: Sequence[int]) -> int:
        """Return the number of bytes of all ids."""
        return len(self._bytes(tokens))

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._tokens.get(int(token), b"") for token in tokens)


class SentencePieceTokenizer(_OfPieces):
    """A .model file of Google's SentencePiece.

    Args:
        path: the file.

    Raises:
        BadInputError: the file is missing or no model.
        MissingDependencyError: the package `sentencepiece` is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        path = require_file(path, "the tokenizer")
        try:
            import sentencepiece
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"reading {path} needs the Python package sentencepiece", "pip install 'hsm-export[tokenizers]'"
            ) from error
        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        except Exception as error:  # the library raises RuntimeError and what SWIG does
            raise BadInputError(f"{path} is not a model of SentencePiece: {error}") from error
        self.vocab_size: int = self._model.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Return the text's ids, without marks for its beginning and end."""
        return list(self._model.encode(text, out_type=int))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids; control pieces, and ids beyond the model's, have none."""
        known = [int(token) for token in tokens if token < self.vocab_size]
        return str(self._model.decode(known)) if known else ""


class HuggingFaceTokenizer(_OfPieces):
    """A tokenizer.json of Hugging Face's `tokenizers` library.

    Args:
        path: the file.

    Raises:
        BadInputError: the file is missing or no tokenizer.
        MissingDependencyError: the package `tokenizers` is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        path = require_file(path, "the tokenizer")
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"reading {path} needs the Python package tokenizers", "pip install 'hsm-export[tokenizers]'"
            ) from error
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BadInputError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the text's ids, without the special tokens that a template may put around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids; special tokens have none."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


class _IdStream:
    """Text of a growing list of ids, decoded together: the text of an id depends on the one before it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._open: list[int] = []

    def push(self, token: int) -> str:
        self._open.append(token)
        text = self._new_text()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        # Where ids alone have no text (a mark for a space that begins a text), those before them say that they do not.
        begins = bool(self._tokenizer.decode(self._open))
        self._context, self._open = self._open if begins else self._context + self._open, []
        return text

    def finish(self) -> str:
        text = self._new_text() if self._open else ""
        self._open = []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._open)[len(before) :]


def open_tokenizer(path: str | Path | None) -> Tokenizer:
    """Return the tokenizer of a file; None means bytes.

    Args:
        path: a Hugging Face tokenizer.json, a .model of SentencePiece, a JSON file {"characters": TEXT} of the
            characters by id, the checkpoint of a model that was trained on characters, or a .txt file of RWKV's
            vocabulary.

    Raises:
        BadInputError, MissingDependencyError: see `HuggingFaceTokenizer` and `SentencePieceTokenizer`.
    """
    if path is None:
        return BytesTokenizer()
    kind = tokenizer_kind(path)
    if kind == "characters":
        return CharactersTokenizer(characters_of(Path(path)) or "")
    if kind == "rwkv":
        return RwkvTokenizer(read_vocabulary(Path(path)))
    return SentencePieceTokenizer(path) if kind == "sentencepiece" else HuggingFaceTokenizer(path)


def tokenizer_for(model: object, given: str | Path | None, vocabulary: int) -> Tokenizer:
    """Return the tokenizer of a model: the given file's, else the one that belongs to the model, else bytes.

    Args:
        model: what `hsm_export.formats.tokenizer_file.tokenizer_of` takes.
        given: the file that the user named; None for none.
        vocabulary: how many token ids the model has.

    Raises:
        UsageError: it does not fit the model.
        BadInputError, MissingDependencyError: as `open_tokenizer`.
    """
    tokenizer = open_tokenizer(given if given is not None else tokenizer_of(model, vocabulary))
    check_vocabulary(tokenizer, vocabulary)
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse a tokenizer whose ids are not those of a model with `vocab_size` of them.

    A model may have a few more than its tokenizer, because tables are often padded; bytes are exactly 256.

    Raises:
        UsageError: they do not fit.
    """
    if isinstance(tokenizer, BytesTokenizer) and vocab_size != tokenizer.vocab_size:
        raise UsageError(
            f"the model has {vocab_size} token ids, not the 256 bytes", "give its tokenizer with --tokenizer"
        )
    if tokenizer.vocab_size > vocab_size:
        raise UsageError(f"the tokenizer has {tokenizer.vocab_size} token ids, but the model only {vocab_size}")
