"""Calibration: the inputs of the search and those that it never sees, from text, arrays or the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.tokenizer import tokenizer_for
from ..errors import BadInputError, UsageError
from ..files import require_file
from ..formats.tensor import InputSpec
from ..onnx_model.model_file import ModelFile

Array = NDArray[Any]
Feed = dict[str, Array]

LENGTH = 128
SEQUENCES = 32
# Sequences of the search, and of those that it never sees: fewer say too little of the spread between sequences.
_LEAST = 4
_LAST_ONLY = (512, 24)  # of files that return logits of last tokens only: many short ones
_MOST_LOGITS = 1 << 25
_BATCH_LOGITS = 1 << 22
_WARM_UP = 32  # tokens of a sampled sequence that are thrown away: the first one is drawn blindly
_SEED = 20


@dataclass(frozen=True)
class Calibration:
    """Inputs of a model.

    Attributes:
        searched, held_out: feeds of several sequences each.
        words: what they are.
        texts: the tokens are text (or the model's own), so that perplexity means something.
    """

    searched: tuple[Feed, ...]
    held_out: tuple[Feed, ...]
    words: str
    texts: bool


def calibrate(
    file: ModelFile,
    given: str | Path | Mapping[str, Any] | None,
    tokenizer: str | Path | None,
    *,
    seed: int = _SEED,
) -> Calibration:
    """Return the inputs of the search and others.

    Args:
        file: the model.
        given: a text file, an .npz file or arrays by the names of the inputs, with rows first; None lets a language
            model with a state write its own text, and draws inputs at random for others.
        tokenizer: of the text; None takes the one that belongs to the file, else bytes.
        seed: of what is drawn at random.

    Raises:
        UsageError: text for a model without tokens, or a tokenizer that does not fit.
        BadInputError: too little text, or inputs that the model does not take.
    """
    if isinstance(given, (str, Path)) and Path(given).suffix != ".npz":
        return _from_text(file, Path(given), tokenizer)
    if tokenizer is not None:
        raise UsageError("a tokenizer reads text", "give a text file with --calibration")
    if given is not None:
        return _from_arrays(file, given)
    if _is_language_model(file) and file.decodes:
        tokens = sample_tokens(file, 2 * _sequences(file), _length(file), seed)
        return _split(file, {_token_name(file): tokens}, "text that the model wrote itself", texts=True)
    return _split(file, _drawn(file, seed), "inputs drawn at random", texts=False)


def _from_text(file: ModelFile, path: Path, tokenizer: str | Path | None) -> Calibration:
    if not _is_language_model(file):
        raise UsageError(f"{file.path} takes no tokens, so text cannot calibrate it", "give an .npz file of its inputs")
    encoder = tokenizer_for(file.path, tokenizer, vocabulary(file))
    content = require_file(path, "the text").read_bytes().decode("utf-8", errors="surrogateescape")
    ids = np.asarray(encoder.encode(content), np.int64)
    length = min(_length(file), len(ids) // (2 * 8))
    if length < 8:
        raise BadInputError(f"{path} has {len(ids)} tokens, too few to calibrate with", "give at least 1000")
    many = min(len(ids) // length, 2 * _sequences(file))
    # From the whole text, evenly; what the search sees is the first half of it.
    starts = np.linspace(0, len(ids) - length, many).astype(np.int64)
    tokens = ids[starts[:, None] + np.arange(length)]
    return _split(file, {_token_name(file): tokens}, f"{len(ids):,} tokens of {path.name}", texts=True)


def _from_arrays(file: ModelFile, given: str | Path | Mapping[str, Any]) -> Calibration:
    if isinstance(given, (str, Path)):
        try:
            with np.load(require_file(given, "the calibration inputs"), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError) as error:
            raise BadInputError(f"{given} is no .npz file of arrays: {error}") from error
        words = Path(given).name
    else:
        arrays, words = {name: np.asarray(array) for name, array in given.items()}, "the given arrays"
    known = {spec.name for spec in file.inputs}
    if not arrays or set(arrays) - known:
        raise BadInputError(
            f"the calibration holds {', '.join(sorted(arrays)) or 'nothing'}; the inputs of {file.path} are "
            f"{', '.join(sorted(known))}"
        )
    rows = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(rows) != 1 or min(rows) < 2 * _LEAST:
        raise BadInputError(
            f"the calibration's arrays have {', '.join(map(str, sorted(rows)))} rows",
            f"give each input the same number of rows, at least {2 * _LEAST}",
        )
    tokens = _is_language_model(file)
    return _split(file, arrays, f"{min(rows):,} rows of {words}", texts=tokens)


def _split(file: ModelFile, arrays: Mapping[str, Array], words: str, *, texts: bool) -> Calibration:
    """Split rows in halves, and these into feeds whose logits fit the memory."""
    rows = len(next(iter(arrays.values())))
    half = rows // 2
    if half < _LEAST:
        raise BadInputError(f"the calibration has {rows} sequences", f"give at least {2 * _LEAST}")
    parts = (slice(0, half), slice(half, rows))
    found = [tuple(_feeds(file, {name: array[part] for name, array in arrays.items()})) for part in parts]
    return Calibration(found[0], found[1], words, texts)


def _feeds(file: ModelFile, arrays: Mapping[str, Array]) -> list[Feed]:
    rows, length = len(next(iter(arrays.values()))), _tokens_of(file, arrays)
    wide = vocabulary(file) * (1 if _last_only(file) else length) if _is_language_model(file) else 1
    batch = max(1, min(rows, _BATCH_LOGITS // max(wide, 1)))
    return [
        filled(file, {name: array[start : start + batch] for name, array in arrays.items()})
        for start in range(0, rows, batch)
    ]


def filled(file: ModelFile, arrays: Mapping[str, Array]) -> Feed:
    """Return a feed with what a caller need not say: full lengths, positions 0 and states before their first token."""
    rows, length = len(next(iter(arrays.values()))), _tokens_of(file, arrays)
    feed = {spec.name: _as(spec, arrays[spec.name]) for spec in file.inputs if spec.name in arrays}
    state = file.state().allocate(rows, length if file.state().needs_capacity else None) if file.decodes else {}
    for spec in file.inputs:
        if spec.name in feed:
            continue
        if spec.name in state:
            feed[spec.name] = state[spec.name]
        elif spec.is_lengths:
            feed[spec.name] = _as(spec, np.full(rows, length))
        elif spec.name == "position":
            feed[spec.name] = _as(spec, np.zeros(rows))
        else:
            raise BadInputError(f"the calibration lacks the input {spec.name} of {file.path}")
    return feed


def _as(spec: InputSpec, array: Array) -> Array:
    from ..dtypes import BY_NAME

    return np.ascontiguousarray(array, dtype=BY_NAME[spec.dtype].numpy)


def _tokens_of(file: ModelFile, arrays: Mapping[str, Array]) -> int:
    name = _token_name(file)
    return int(arrays[name].shape[1]) if name in arrays else 1


def _drawn(file: ModelFile, seed: int) -> dict[str, Array]:
    """Return random arrays for every input but states, positions and lengths."""
    generator = np.random.default_rng(seed)
    rows, length = 2 * _sequences(file), _length(file)
    state = {tensor.past for tensor in file.state().tensors} if file.decodes else set()
    found: dict[str, Array] = {}
    for spec in file.inputs:
        if spec.name in state or spec.name == "position" or spec.is_lengths:
            continue
        sizes = [size if isinstance(size, int) else length for size in spec.shape]
        if sizes and not isinstance(spec.shape[0], int):
            sizes[0] = rows
        if spec.is_integer:
            low, high = spec.drawn
            found[spec.name] = generator.integers(low, high + 1, sizes)
        else:
            found[spec.name] = generator.standard_normal(sizes, np.float32)
    if not found or any(len(array) != rows for array in found.values()):
        raise BadInputError(
            f"inputs of {file.path} cannot be drawn: their first dimension does not count rows",
            "give them with --calibration",
        )
    return found


def sample_tokens(file: ModelFile, rows: int, length: int, seed: int) -> Array:
    """Return text (rows, length) that a decoding file writes itself, every token drawn from its predictions.

    The first tokens are thrown away, so that sequences begin in the middle of a text, as windows of a text do.
    """
    from ..errors import MissingDependencyError
    from ..native import custom_ops_path
    from ..runtimes.session import cpu_session

    try:
        kernels: Path | None = custom_ops_path()
    except MissingDependencyError:
        kernels = None
    session = cpu_session(file.model, file.path.parent, kernels=kernels)
    spec, generator = file.state(), np.random.default_rng(seed)
    names = ["logits", *(tensor.present for tensor in spec.tensors)]
    warm = min(_WARM_UP, max(0, (spec.longest() or LENGTH + _WARM_UP) - length))
    state = spec.allocate(rows, length + warm if spec.needs_capacity else None)
    tokens = generator.integers(0, vocabulary(file), (rows, 1))
    written = [tokens]
    for place in range(length + warm - 1):
        feed = {"tokens": tokens, "position": np.full(rows, place), "lengths": np.ones(rows, np.int64), **state}
        known = {item.name for item in session.get_inputs()}
        logits, *states = session.run(names, {name: array for name, array in feed.items() if name in known})
        state = {tensor.past: array for tensor, array in zip(spec.tensors, states, strict=True)}
        tokens = _drawn_tokens(logits[:, -1], generator)
        written.append(tokens)
    return np.concatenate(written[warm:], axis=1)


def _drawn_tokens(logits: Array, generator: np.random.Generator) -> Array:
    """Return a token (B,1) for each row of logits (B,V): the largest after adding Gumbel noise."""
    noise = -np.log(-np.log(generator.uniform(1e-12, 1 - 1e-12, logits.shape)))
    return np.asarray((logits + noise).argmax(-1)[:, None], np.int64)


def vocabulary(file: ModelFile) -> int:
    """Return the number of logits of a language model."""
    from ..comparison.predictions import scored_output

    _, name = scored_output(file)
    shape = next((item.shape for item in file.outputs if item.name == name), ())
    return int(shape[-1]) if shape and isinstance(shape[-1], int) else file.config.get("vocab_size", 0) or 1


def _is_language_model(file: ModelFile) -> bool:
    from ..comparison.predictions import scored_output

    return scored_output(file)[0] == "language_model" and file.scored_tokens is not None


def _token_name(file: ModelFile) -> str:
    return file.scored_tokens.name if file.scored_tokens is not None else ""


def _last_only(file: ModelFile) -> bool:
    return file.decodes and file.state().last_logits


def _sequences(file: ModelFile) -> int:
    if _last_only(file):
        return _LAST_ONLY[0]
    if not _is_language_model(file):
        return 8 * SEQUENCES
    return max(_LEAST, min(SEQUENCES, _MOST_LOGITS // (vocabulary(file) * _length(file))))


def _length(file: ModelFile) -> int:
    longest = file.max_length or LENGTH
    if file.decodes:
        longest = min(longest, file.state().longest() or LENGTH)
    return min(_LAST_ONLY[1] if _last_only(file) else LENGTH, longest)
