"""The inputs that a diff feeds: the user's arrays or text, or chosen ones that any ONNX file runs with."""

from __future__ import annotations

import codecs
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInputError, UsageError
from ...files import require_file
from ...validation.cases import Case, Shape
from ...validation.given_inputs import given_feed, read_npz, rounded
from ...validation.tried_cases import chosen_cases

if TYPE_CHECKING:
    from ...formats.tensor import InputSpec
    from ...onnx_model.model_file import ModelFile

Array = NDArray[Any]
# Makes one call of the file in the runtime whose numbers count as right, and returns its outputs.
Call = Callable[[Mapping[str, Array]], Mapping[str, Array]]

LABELS = "labels"
# Text is cut into windows of so many tokens, so many of them are one case, and there are so many cases at most.
_WINDOW, _WINDOWS, _TEXT_CASES = 128, 4, 8
# A file of any size may be given; this much holds more than enough windows.
_TEXT_BYTES = 4 << 20
_DIGITS_LENGTH, _DIGITS_CLASSES = 64, 10


@dataclass(frozen=True)
class Feeds:
    """All sets of inputs, and notes on how they were chosen."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()


def open_feeds(
    file: ModelFile,
    inputs: str | Path | Mapping[str, Any] | None = None,
    *,
    call: Call,
    shapes: Sequence[Shape] | None = None,
    tokenizer: str | Path | None = None,
) -> Feeds:
    """Return what a file is fed with. Floating-point numbers are rounded to the types of the inputs.

    Args:
        file: the opened file.
        inputs: an .npz file or a mapping with the arrays of the inputs by name, and `labels` (B,) where they are
            known; or a text file for a language model. None chooses inputs.
        call: makes a call where inputs are to be chosen: for the state of a decoding file, and to see with which
            inputs a file without metadata runs at all.
        shapes: of chosen inputs: (batch, length), or sizes of dimensions by name.
        tokenizer: a tokenizer.json for the text. Without it, that beside the model; without that, bytes.

    Raises:
        BadInputError: the inputs cannot be read, or are not what the model takes.
        UsageError: options that contradict each other or the file.
        MissingDependencyError: the tokenizer needs a package that is not installed.
    """
    if inputs is not None and shapes:
        raise UsageError("inputs and shapes contradict each other", "give one of them")
    if inputs is None:
        feeds = _chosen(file, call, shapes)
    elif isinstance(inputs, Mapping) or _holds_arrays(Path(inputs)):
        feeds = Feeds((_user_feed(file, inputs),))
    else:
        feeds = _text_feeds(file, Path(inputs), tokenizer)
    return replace(feeds, cases=tuple(_rounded(file, case) for case in feeds.cases))


def longest_sequence(file: ModelFile) -> int | None:
    """Return the most tokens that a file reads at once or, with a state, in all; None for any number."""
    if file.metadata.get("decode") == "1":
        return file.state().longest()
    spec = file.tokens
    fixed = spec.shape[1] if spec is not None and isinstance(spec.shape[1], int) else None
    configured = int(file.config.get("max_length") or 0)
    return min(filter(None, (fixed, configured)), default=None)


def prompt_of(feeds: Feeds, file: ModelFile, length: int) -> Array:
    """Return tokens (L,), at most `length`, to generate from: the beginning of the first text, else of any case."""
    spec = file.tokens
    assert spec is not None
    case = next((case for case in feeds.cases if case.text), feeds.cases[-1])
    row = case.feed[spec.name][0]
    lengths = file.lengths_in(case.feed)
    beginning: Array = row[: min(length, len(row) if lengths is None else max(1, int(lengths[0])))]
    return beginning


def _chosen(file: ModelFile, call: Call, shapes: Sequence[Shape] | None) -> Feeds:
    if file.metadata.get("decode") == "1":
        from .decoding import decoding_cases

        return Feeds(tuple(decoding_cases(file, call, shapes)))
    cases, notes = chosen_cases(file, call, shapes)
    if not shapes and _reads_digits(file):
        digits, note = _digits(file)
        cases = [*cases, digits] if digits else cases
        notes = [*notes, note]
    return Feeds(tuple(cases), tuple(notes))


def _reads_digits(file: ModelFile) -> bool:
    """Whether a file classifies what the zoo's digits are: rows of 64 grey levels."""
    config = file.config
    return (
        config.get("input") == "pixels"
        and config.get("classes") == _DIGITS_CLASSES
        and (longest_sequence(file) or _DIGITS_LENGTH) >= _DIGITS_LENGTH
    )


def _digits(file: ModelFile) -> tuple[Case | None, str]:
    """Return the held-out digits, which no training saw, with their labels; None where they are not at hand."""
    from hsm_models.data import load_digits
    from hsm_models.errors import DataError

    try:
        data = load_digits()
    except DataError as error:
        return None, f"no accuracy on the digits: {error}"
    sequences = data.sequences[data.train_count :].numpy()
    spec = next(spec for spec in file.inputs if not spec.is_lengths)
    feed: dict[str, Array] = {spec.name: sequences.astype(spec.dtype)}
    if file.lengths is not None:
        feed[file.lengths.name] = np.full(len(sequences), sequences.shape[1], file.lengths.dtype)
    case = Case(f"digits, {len(sequences)} held out", feed, labels=data.labels[data.train_count :].numpy())
    return case, f"accuracy on the {len(sequences)} held-out digits"


def _user_feed(file: ModelFile, inputs: str | Path | Mapping[str, Any]) -> Case:
    """Return the user's arrays; labels that are not an input of the model are taken out of them."""
    arrays, where = (dict(inputs), "given inputs") if isinstance(inputs, Mapping) else read_npz(Path(inputs))
    labels = None if LABELS in {spec.name for spec in file.inputs} else arrays.pop(LABELS, None)
    case = Case(where, given_feed(file, arrays, where), text=file.scored_tokens is not None)
    return case if labels is None else replace(case, labels=_labels(np.asarray(labels), case, file, where))


def _holds_arrays(path: Path) -> bool:
    """Whether a file is one of NumPy's, whatever it holds, rather than a text."""
    return path.suffix.lower() in (".npz", ".npy") or (path.is_file() and zipfile.is_zipfile(path))


def _labels(labels: Array, case: Case, file: ModelFile, where: str) -> Array:
    rows = case.feed[file.inputs[0].name].shape[:1]
    if labels.dtype.kind not in "iu" or labels.shape != rows:
        raise BadInputError(
            f"{where}: {LABELS} must be one integer for each of the {rows[0] if rows else 1} examples, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int64)


def _text_feeds(file: ModelFile, path: Path, tokenizer: str | Path | None) -> Feeds:
    """Cut a text into windows, several of them a case."""
    spec = file.tokens
    if spec is None:
        raise UsageError(
            f"{path} is not an .npz file, and only language models read text: {file.path} takes "
            f"{', '.join(f'{item.name} ({item.dtype})' for item in file.inputs) or 'no inputs'}",
            "give its arrays: np.savez(path, name=array, …)",
        )
    ids = _tokens(file, path, tokenizer, spec.drawn[1] + 1)
    length = _window(file, spec)
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else _WINDOWS
    windows = [ids[start : start + length] for start in range(0, len(ids), length)]
    # A last window that is shorter would need padding, which not every model can take.
    whole = [window for window in windows if len(window) == length] or windows[:1]
    if isinstance(spec.shape[1], int) and len(whole[0]) < length:
        raise BadInputError(f"{path} has {len(ids)} tokens, but {file.path} reads {length} at once")
    used = whole[: _TEXT_CASES * batch]
    groups = [used[start : start + batch] for start in range(0, len(used), batch)]
    if isinstance(spec.shape[0], int):
        groups = [(group * batch)[:batch] for group in groups]
    items = [_text_feed(file, spec, np.stack(group), index) for index, group in enumerate(groups)]
    read = sum(len(window) for window in used)
    notes = [f"{path.name}: the first {read:,} tokens, in windows of {len(used[0])}, each read without context"]
    return Feeds(tuple(items), tuple(notes))


def _tokens(file: ModelFile, path: Path, tokenizer: str | Path | None, vocabulary: int) -> NDArray[np.int64]:
    from ...decoding.tokenizer import tokenizer_for

    encoder = tokenizer_for(file.path, tokenizer, vocabulary)
    with require_file(path, "the text").open("rb") as stream:
        content = stream.read(_TEXT_BYTES)
        last = not stream.read(1)
    # A character that the limit cuts is left out; bytes that are no text come back as they were.
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(content, final=last)
    try:
        ids = np.asarray(encoder.encode(text), np.int64)
    except UnicodeError as error:
        raise BadInputError(f"{path} is not UTF-8 text: {error}") from error
    if len(ids) < 2:
        raise BadInputError(f"{path} has {len(ids)} tokens, but at least two are needed to predict one from another")
    return ids


def _window(file: ModelFile, spec: InputSpec) -> int:
    if isinstance(spec.shape[1], int):
        return spec.shape[1]
    return min(_WINDOW, longest_sequence(file) or _WINDOW)


def _text_feed(file: ModelFile, spec: InputSpec, tokens: Array, index: int) -> Case:
    feed: dict[str, Array] = {spec.name: tokens.astype(spec.dtype)}
    lengths = np.full(len(tokens), tokens.shape[1], np.int64)
    if file.metadata.get("decode") == "1":
        from .decoding import first_call

        feed = first_call(file, tokens, lengths)
    elif file.lengths is not None:
        feed[file.lengths.name] = lengths.astype(file.lengths.dtype)
    return Case(f"text {index + 1}, {len(tokens)}×{tokens.shape[1]}", feed, text=True)


def _rounded(file: ModelFile, case: Case) -> Case:
    return replace(case, feed=rounded(file, case.feed))
