"""How well a model predicts a text: read as a stream with a state, so that the text may have any length."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError, UsageError
from ..files import require_file
from ..formats.result import Result
from .session import DecodeSession, check_room
from .tokenizer import tokenizer_for

if TYPE_CHECKING:
    from torch import nn

_CHUNK = 256


@dataclass(frozen=True)
class PerplexityResult(Result):
    """How well a text was predicted, each token from all tokens before it.

    Attributes:
        model: the file, the checkpoint, or the class of the model.
        runtime: what ran it.
        tokens: predicted tokens; the first token of the text has nothing before it and is not among them.
        bytes: bytes of UTF-8 text that they stand for.
        nats_per_token: mean negative log-likelihood.
        perplexity: its exponential.
        bits_per_byte: sum of the negative log-likelihoods in bits, over `bytes`.
        seconds: time that the model took.
    """

    model: str
    runtime: str
    tokens: int
    bytes: int
    nats_per_token: float
    perplexity: float
    bits_per_byte: float
    seconds: float


def perplexity(
    model: str | Path | nn.Module,
    text: str | Path,
    *,
    runtime: str | None = None,
    tokenizer: str | Path | None = None,
    chunk: int = _CHUNK,
    progress: Callable[[str], None] | None = None,
) -> PerplexityResult:
    """Measure how well a model predicts a text file, in one stream from its first token to its last.

    Args:
        model: as for `DecodeSession`: a file, a checkpoint, or a language model of your own.
        text: the text file.
        runtime: see `DecodeSession`.
        tokenizer: a file, see `open_tokenizer`; None takes the one that belongs to the model, else bytes.
        chunk: tokens of one call.
        progress: is called with the name of each phase.

    Raises:
        UsageError: arguments that do not fit each other, or a text longer than the model's state.
        BadInputError: a file that is missing, damaged or without a state, or a text of fewer than two tokens.
        MissingDependencyError: the runtime or the tokenizer needs a package that is not installed.
    """
    report = progress or (lambda phase: None)
    content = require_file(text, "the text").read_bytes().decode("utf-8", errors="surrogateescape")
    report("loading")
    session = DecodeSession(model, runtime, capacity=1)
    encoder = tokenizer_for(model, tokenizer, session.vocab_size)
    ids = encoder.encode(content)
    if len(ids) < 2:
        raise BadInputError(f"{text} has {len(ids)} tokens, but at least two are needed to predict one from another")
    session.reset(capacity=len(ids) - 1)
    started = time.perf_counter()
    total = negative_log_likelihood(session, ids, chunk, report)
    size = encoder.byte_count(ids[1:])
    return PerplexityResult(
        model=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
        runtime=session.runtime,
        tokens=len(ids) - 1,
        bytes=size,
        nats_per_token=total / (len(ids) - 1),
        perplexity=math.exp(total / (len(ids) - 1)),
        bits_per_byte=total / math.log(2) / size,
        seconds=time.perf_counter() - started,
    )


def negative_log_likelihood(
    session: DecodeSession,
    ids: Sequence[int],
    chunk: int = _CHUNK,
    progress: Callable[[str], None] | None = None,
) -> float:
    """Return -sum log p(ids[t] | ids[:t]) over t >= 1, in nats; the session is reset first.

    Args:
        session: of a file that returns the logits of every token.
        ids: the tokens of one sequence, at least two.
        chunk: tokens of one call.
        progress: is called with how far it got, ten times at most.

    Raises:
        UsageError: the sequence does not fit the state, a chunk below 1, or a file of last-token logits only.
    """
    if session.last_only:
        raise UsageError(
            "the file returns the logits of the last token only", "export it with --decode, without --last-logits"
        )
    if chunk < 1:
        raise UsageError(f"the chunk must be at least 1 token, got {chunk}")
    check_room(session.capacity, len(ids) - 1)
    session.reset(1)
    sequence = np.asarray(ids, np.int64)
    sums: list[float] = []
    tenth = 0
    for start in range(0, len(ids) - 1, chunk):
        targets = sequence[start + 1 : start + 1 + chunk]
        logits = session.step(sequence[None, start : start + len(targets)])
        sums.append(_surprise(logits[0], targets))
        done = start + len(targets)
        if progress is not None and 10 * done // (len(ids) - 1) > tenth:
            tenth = 10 * done // (len(ids) - 1)
            progress(f"{done:,} of {len(ids) - 1:,} tokens")
    return math.fsum(sums)


def _surprise(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return -sum_t log softmax(logits[t])[targets[t]] for logits (T,V), in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(wide, targets[:, None], axis=1)[:, 0]
    return float(np.sum(np.log(np.exp(wide).sum(axis=1)) - chosen))
