"""Training data: byte- or character-level text or token ids for language models, labelled sequences for classifiers.

Bytes and ids stay on the disk, mapped into memory, so that a corpus may be larger than the memory.

Both kinds offer the same to the training loop: random batches from the training part, fixed batches from the held-out
part, a metric that turns the loss and the hits over the held-out part into one number, and words that tell them apart.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import ModelConfig
from .errors import ConfigError, DataError
from .training_settings import Level

HELD_OUT_FRACTION = 0.05
DIGITS = "digits"
DIGITS_TEST_FRACTION = 0.2
DIGITS_SPLIT_SEED = 2026
DIGITS_WHITE = 16
_PIECE = 1 << 14

Batch = tuple[tuple[Tensor, ...], Tensor]


@dataclass(frozen=True)
class Tally:
    """Sums over the held-out part.

    Attributes:
        loss: summed cross-entropy in nats.
        hits: targets that have the largest logit.
        count: number of targets.
    """

    loss: float
    hits: int
    count: int


class TrainingData(Protocol):
    """What the training loop asks of data; a batch is (model inputs, targets), all int64."""

    metric: str

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Return `size` random examples of the training part."""
        ...

    def held_out(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the held-out examples in order, `size` at a time, at most `limit` of them."""
        ...

    def measure(self, tally: Tally) -> float:
        """Turn sums over the held-out part into the metric."""
        ...

    def metadata(self) -> dict[str, str]:
        """Return what a checkpoint must remember of the data, for its file's metadata."""
        ...

    def identity(self) -> str:
        """Return words that other data do not have."""
        ...


class TextData:
    """Windows of one text whose last part is held out.

    A training example is a random window of `length` symbols and the same window one symbol later. Held-out windows
    do not overlap and each starts without context, so the metric is a little pessimistic.

    Args:
        symbols: the text as ids, (N,) integers; an array may be mapped from a file.
        length: symbols per window, >= 1.
        level: "byte", "char" or, for ids of a tokenizer, "token"; names the metric.
        vocabulary: the characters by id, for level "char".
        held_out_fraction: part of the text, from its end, that is never trained on.

    Raises:
        DataError: the text is too short for one window in each part.
    """

    def __init__(
        self,
        symbols: Tensor | NDArray[Any],
        length: int,
        level: Level | Literal["token"] = "byte",
        vocabulary: str = "",
        held_out_fraction: float = HELD_OUT_FRACTION,
    ) -> None:
        held_out = int(len(symbols) * held_out_fraction)
        if held_out <= length:
            need = math.ceil((length + 1) / held_out_fraction)
            raise DataError(
                f"the text has {len(symbols)} symbols, too few for windows of {length}: "
                f"give at least {need}, or a smaller length"
            )
        self.train_symbols = symbols[:-held_out]
        self.held_out_symbols = symbols[-held_out:]
        self.length = length
        self.level = level
        self.vocabulary = vocabulary
        self.metric = {"byte": "bits_per_byte", "char": "bits_per_character", "token": "bits_per_token"}[level]

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        starts = torch.randint(len(self.train_symbols) - self.length, (size,), generator=generator)
        return self._windows(self.train_symbols, starts)

    def held_out(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        starts = torch.arange(0, len(self.held_out_symbols) - self.length, self.length)[:limit]
        for part in starts.split(size):
            yield self._windows(self.held_out_symbols, part)

    def measure(self, tally: Tally) -> float:
        return tally.loss / tally.count / math.log(2.0)

    def metadata(self) -> dict[str, str]:
        return {"level": self.level} | ({"vocabulary": json.dumps(self.vocabulary)} if self.vocabulary else {})

    def identity(self) -> str:
        return _identity(self.train_symbols, self.held_out_symbols)

    def _windows(self, symbols: Tensor | NDArray[Any], starts: Tensor) -> Batch:
        """Cut windows out at `starts` (B,): inputs (B,length) and the symbols that follow them (B,length)."""
        places = starts[:, None] + torch.arange(self.length + 1)
        if isinstance(symbols, Tensor):
            rows = symbols[places].long()
        else:
            rows = torch.from_numpy(symbols[places.numpy()].astype(np.int64))
        return (rows[:, :-1],), rows[:, 1:]


class SequenceData:
    """Labelled sequences of equal length: pixels as grey levels, or tokens.

    Args:
        sequences: (N,T) integers, training examples first.
        labels: (N,) integers.
        held_out: how many examples at the end are held out.
        masked: also give the model `lengths`: training rows then end at random, after at least half of their
            symbols; held-out rows are whole.

    Raises:
        DataError: shapes that do not fit, or a part without examples.
    """

    metric = "accuracy"

    def __init__(self, sequences: Tensor, labels: Tensor, held_out: int, masked: bool = False) -> None:
        if sequences.ndim != 2 or labels.shape != sequences.shape[:1]:
            raise DataError(
                f"sequences must be (N,T) with labels (N,), got {tuple(sequences.shape)} and {tuple(labels.shape)}"
            )
        if not 0 < held_out < len(labels):
            raise DataError(f"{len(labels)} labelled sequences are too few: some to train on and some to hold out")
        self.sequences, self.labels = sequences.long(), labels.long()
        self.train_count = len(labels) - held_out
        self.masked = masked

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(self.train_count, (size,), generator=generator)
        length = self.sequences.shape[1]
        shortest = (length + 1) // 2
        lengths = torch.randint(shortest, length + 1, (size,), generator=generator)
        return self._inputs(self._vary(self.sequences[rows], generator), lengths), self.labels[rows]

    def held_out(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        for rows in torch.arange(self.train_count, len(self.labels))[:limit].split(size):
            sequences = self.sequences[rows]
            yield self._inputs(sequences, torch.full((len(rows),), sequences.shape[1])), self.labels[rows]

    def measure(self, tally: Tally) -> float:
        return tally.hits / tally.count

    def metadata(self) -> dict[str, str]:
        return {}

    def identity(self) -> str:
        return _identity(self.sequences, self.labels)

    def _vary(self, sequences: Tensor, generator: torch.Generator) -> Tensor:
        """Hook for data augmentation of training rows (B,T); plain sequences stay as they are."""
        return sequences

    def _inputs(self, sequences: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return (sequences, lengths) if self.masked else (sequences,)


class ImageData(SequenceData):
    """Images read row by row; each pixel of a training image varies by up to two of the grey levels 0..16."""

    def _vary(self, sequences: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randint(-2, 3, sequences.shape, generator=generator)
        return (sequences + noise).clamp(0, DIGITS_WHITE)


def load_text(path: str | Path, length: int, level: Level = "byte", alphabet: str = "") -> TextData:
    """Read a text file as bytes (ids 0..255), mapped from the disk, or as characters.

    Args:
        path: the file.
        length: symbols of a window.
        level: the symbols.
        alphabet: the characters by id; by default those of the text in code-point order.

    Raises:
        DataError: the file is missing or unreadable, too short, not UTF-8 at level "char", or has characters that the
            alphabet lacks.
    """
    if level == "byte":
        return TextData(_mapped_bytes(Path(path)), length)
    content = _read(Path(path))
    try:
        points = np.array([ord(character) for character in content.decode("utf-8")], dtype=np.int64)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); use byte level") from error
    found, symbols = np.unique(points, return_inverse=True)
    text = "".join(map(chr, found))
    if alphabet:
        strange = [character for character in text if character not in alphabet]
        if strange:
            raise DataError(f"{path} has characters that the model does not know: {', '.join(map(repr, strange[:10]))}")
        symbols = np.array([alphabet.index(character) for character in text])[symbols]
    return TextData(torch.from_numpy(symbols), length, "char", alphabet or text)


def is_ids(source: str | Path) -> bool:
    """Return whether training data are ids of a tokenizer."""
    return Path(source).suffix == ".npy"


def load_ids(path: str | Path, length: int) -> TextData:
    """Read the ids of a tokenized text, an .npy file (N,) of integers, mapped from the disk.

    Raises:
        DataError: the file is missing, no such array, or too short.
    """
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the ids {path}: {error}; write them with numpy.save") from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{path} must hold one dimension of integers")
    if any(int(part.min()) < 0 for part in _parts(ids)):
        raise DataError(f"{path} holds negative ids")
    return TextData(ids, length, "token")


def load_digits(masked: bool = False) -> SequenceData:
    """Read scikit-learn's handwritten digits: 1 797 images of 8x8 pixels as (64,) grey levels 0..16, 20 % held out.

    The images are shuffled once, always the same way, because neighbours in the file share their writer.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ModuleNotFoundError as error:
        raise DataError("the digits ship with scikit-learn: pip install scikit-learn") from error
    digits = load()
    order = np.random.default_rng(DIGITS_SPLIT_SEED).permutation(len(digits.target))
    sequences = torch.from_numpy(digits.data[order].astype(np.int64))
    held_out = int(len(order) * DIGITS_TEST_FRACTION)
    return ImageData(sequences, torch.from_numpy(digits.target[order].astype(np.int64)), held_out, masked)


def load_sequences(path: str | Path, name: str, masked: bool = False) -> SequenceData:
    """Read labelled sequences from an .npz file: array `name` (N,T) and array `labels` (N,), the last 5 % held out.

    Raises:
        DataError: the file is missing, no .npz, lacks an array, or an array does not hold integers.
    """
    _read(Path(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            sequences, labels = (_integers(file[key]) for key in (name, "labels"))
    except (ValueError, KeyError, OSError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} must be an .npz file with integer arrays {name!r} and 'labels': {error}") from error
    return SequenceData(sequences, labels, math.ceil(len(labels) * HELD_OUT_FRACTION), masked)


def load_data(
    config: ModelConfig, source: str | Path, length: int, level: Level = "byte", alphabet: str = ""
) -> TrainingData:
    """Read the data that a model is to be trained on and check that its ids fit the model.

    Args:
        config: the model's configuration; its task says what kind of data it takes.
        source: a text file, or an .npy file of token ids, for a language model; for a classifier "digits"
            (scikit-learn's) or an .npz file with the arrays "tokens" or "pixels" (N,T), whichever the model reads, and
            "labels" (N,).
        length: symbols per example of text.
        level: symbols of text.
        alphabet: the characters by id, for level "char"; by default those of the text.

    Raises:
        DataError: missing, malformed or too little data.
        ConfigError: ids, labels or lengths that the model has no room for, or a model of images.
    """
    if config.input == "image":
        raise ConfigError("models of whole images cannot be trained here; use input 'pixels', which reads row by row")
    if config.task == "language_model":
        text = load_ids(source, length) if is_ids(source) else load_text(source, length, level, alphabet)
        _require_room("vocab_size", config.vocab_size, _symbols(text))
        longest = length
        data: TrainingData = text
    else:
        masked = config.masked
        rows = load_digits(masked) if str(source) == DIGITS else load_sequences(source, config.input, masked)
        _require_room("vocab_size", config.vocab_size, int(rows.sequences.max()) + 1)
        _require_room("classes", config.classes, int(rows.labels.max()) + 1)
        longest = rows.sequences.shape[1]
        data = rows
    if config.positions != "none":
        _require_room("max_length", config.max_length, longest)
    return data


def _identity(*arrays: Tensor | NDArray[Any]) -> str:
    """Return the size of arrays, and a digest of a thousand pieces of each: corpora may be larger than patience."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        for start in range(0, len(array), max(_PIECE, len(array) // 1000)):
            digest.update(np.ascontiguousarray(array[start : start + _PIECE]).data)
    return f"of {len(arrays[0])} and {len(arrays[1])} symbols or examples, SHA-256 {digest.hexdigest()[:8]}"


def _symbols(text: TextData) -> int:
    """Return how many different ids a text may hold."""
    if text.level == "byte":
        return 256
    if text.level == "char":
        return len(text.vocabulary)
    parts = (part for half in (text.train_symbols, text.held_out_symbols) for part in _parts(np.asarray(half)))
    return 1 + max(int(part.max()) for part in parts)


def _parts(array: NDArray[Any], size: int = 1 << 24) -> Iterator[NDArray[Any]]:
    """Yield a mapped array piece by piece, so that looking at all of it needs little memory."""
    for start in range(0, len(array), size):
        yield array[start : start + size]


def _mapped_bytes(path: Path) -> NDArray[Any]:
    """Map a file into memory as bytes; what cannot be mapped, such as a pipe or an empty file, is read."""
    try:
        if path.is_file() and path.stat().st_size:
            return np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the training data {path}: {error}") from error
    return np.frombuffer(_read(path), np.uint8)


def _require_room(name: str, room: int, needed: int) -> None:
    if room < needed:
        raise ConfigError(f"config.{name} is {room}, but the training data needs at least {needed}")


def _integers(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "iu":
        raise ValueError(f"an array holds {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError("an array holds negative numbers")
    return torch.from_numpy(array.astype(np.int64))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the training data {path}: {error.strerror}") from error
