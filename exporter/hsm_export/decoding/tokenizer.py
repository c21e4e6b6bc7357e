"""Text to token ids and back: the bytes of the zoo, or a Hugging Face tokenizer.json."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import BadInputError, MissingDependencyError, UsageError
from ..files import require_file

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


class HuggingFaceTokenizer:
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

    def byte_count(self, tokens: Sequence[int]) -> int:
        """Return the length of the ids' text in UTF-8."""
        return len(self.decode(tokens).encode("utf-8"))

    def stream(self) -> TextStream:
        """Return a stream that holds ids back while their text ends inside a character."""
        return _IdStream(self)


class _IdStream:
    """Text of a growing list of ids, decoded together: the text of an id depends on the one before it."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._open: list[int] = []

    def push(self, token: int) -> str:
        self._open.append(token)
        text = self._new_text()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        self._context, self._open = self._open, []
        return text

    def finish(self) -> str:
        text = self._new_text() if self._open else ""
        self._open = []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._open)[len(before) :]


def open_tokenizer(path: str | Path | None) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json; None means bytes.

    Raises:
        BadInputError, MissingDependencyError: see `HuggingFaceTokenizer`.
    """
    return BytesTokenizer() if path is None else HuggingFaceTokenizer(path)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse a tokenizer whose ids are not those of a model with `vocab_size` of them.

    A model may have a few more than its tokenizer, because tables are often padded; bytes are exactly 256.

    Raises:
        UsageError: they do not fit.
    """
    if isinstance(tokenizer, BytesTokenizer) and vocab_size != tokenizer.vocab_size:
        raise UsageError(
            f"the model has {vocab_size} token ids, not the 256 bytes", "give its tokenizer.json with --tokenizer"
        )
    if tokenizer.vocab_size > vocab_size:
        raise UsageError(f"the tokenizer has {tokenizer.vocab_size} token ids, but the model only {vocab_size}")
