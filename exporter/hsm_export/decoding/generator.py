"""Continue prompts with a decode session: one prefill, then one token a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..formats.result import Result
from .sampling import Choice, Sampler, Sampling
from .session import DecodeSession, check_room
from .stopping import StopFilter
from .tokenizer import BytesTokenizer, Tokenizer, check_vocabulary, tokenizer_for

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True)
class Piece:
    """Text that became certain.

    Attributes:
        row: index of the completion that it belongs to.
        text: the text, never empty and never ending inside a character.
    """

    row: int
    text: str


@dataclass(frozen=True)
class Completion(Result):
    """What was generated for one prompt.

    Attributes:
        text: the continuation, without the stop string that ended it.
        tokens: every generated id, those of a stop string too.
        prompt_tokens: tokens of the prompt.
        reason: "length": the limit was reached; "stop": a stop string or stop token came.
        seed: of this sequence's random stream.
        log_probabilities: of each token, by the model's own logits.
        top: ids and log-probabilities of the likeliest tokens at each place, where they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    reason: Literal["length", "stop"]
    seed: int
    # Rounding differs with the size of the batch, so that completions of the same tokens are equal without them.
    log_probabilities: tuple[float, ...] = field(default=(), compare=False)
    top: tuple[tuple[tuple[int, float], ...], ...] = field(default=(), compare=False)

    @property
    def log_probability(self) -> float:
        """Return that of all tokens together: of several samples, the best has the largest."""
        return sum(self.log_probabilities)


@dataclass(frozen=True)
class Generation(Result):
    """What was generated for a batch of prompts.

    Attributes:
        completions: those of a prompt side by side, in the order of the prompts.
        runtime: what ran the model.
        prefill_seconds: time from the prompts to the logits of their last tokens.
        decode_seconds: time of all steps after that, choosing tokens included.
        steps: single-token steps after the prefill, each for the whole batch.
        state_bytes: size of the states of all sequences.
    """

    completions: tuple[Completion, ...]
    runtime: str
    prefill_seconds: float
    decode_seconds: float
    steps: int
    state_bytes: int

    @property
    def prompt_tokens(self) -> int:
        """Return the tokens of all prompts, counted for each completion."""
        return sum(completion.prompt_tokens for completion in self.completions)

    @property
    def tokens(self) -> int:
        """Return the tokens generated for all prompts."""
        return sum(len(completion.tokens) for completion in self.completions)


class Generator:
    """Generates text with a decode session, for one prompt or a batch of different lengths.

    Args:
        session: runs the model; its state is reset at each call.
        tokenizer: None means bytes.
        chunk: tokens of one call while prompts are read, which bounds the memory that they take.

    Raises:
        UsageError: the tokenizer has ids that the model lacks.
    """

    def __init__(self, session: DecodeSession, tokenizer: Tokenizer | None = None, chunk: int = 256) -> None:
        self._session = session
        self._tokenizer = tokenizer or BytesTokenizer()
        self._chunk = chunk
        check_vocabulary(self._tokenizer, session.vocab_size)
        self._result: Generation | None = None

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_tokens: int = 200,
        sampling: Sampling = DEFAULT_SAMPLING,
        seeds: int | Sequence[int] = 0,
        stop: Sequence[str] = (),
        stop_tokens: Sequence[int] = (),
        samples: int = 1,
        top_log_probabilities: int = 0,
    ) -> Generation:
        """Return the continuations of prompts; arguments and errors as for `stream`."""
        for _ in self.stream(
            prompts,
            max_tokens=max_tokens,
            sampling=sampling,
            seeds=seeds,
            stop=stop,
            stop_tokens=stop_tokens,
            samples=samples,
            top_log_probabilities=top_log_probabilities,
        ):
            pass
        return self.result

    def stream(
        self,
        prompts: str | Sequence[str],
        *,
        max_tokens: int = 200,
        sampling: Sampling = DEFAULT_SAMPLING,
        seeds: int | Sequence[int] = 0,
        stop: Sequence[str] = (),
        stop_tokens: Sequence[int] = (),
        samples: int = 1,
        top_log_probabilities: int = 0,
    ) -> Iterator[Piece]:
        """Yield text as it becomes certain; `result` has everything once the iterator is exhausted.

        A sequence's tokens depend on its prompt and its seed, not on what else is in the batch.

        Args:
            prompts: one or more texts of at least one token each.
            max_tokens: tokens generated for each completion at most.
            sampling: how tokens are chosen.
            seeds: one a completion, or one number: completion i then has that number plus i.
            stop: strings that end a sequence; the text ends before them.
            stop_tokens: ids that end a sequence.
            samples: completions of each prompt, which is read once.
            top_log_probabilities: likeliest tokens to keep at each place, with their log-probabilities.

        Raises:
            UsageError: an empty prompt, prompts that do not fit the state, or arguments out of range.
        """
        texts = [prompts] if isinstance(prompts, str) else prompts
        rows = self._rows(texts, max_tokens, sampling, seeds, stop, samples, top_log_probabilities)
        check_room(self._session.capacity, max(len(row.prompt) for row in rows) + max_tokens - 1)
        return self._run(rows, frozenset(stop_tokens), samples)

    @property
    def result(self) -> Generation:
        """Return what the last exhausted `stream` generated.

        Raises:
            UsageError: none was.
        """
        if self._result is None:
            raise UsageError("nothing has been generated yet", "exhaust the iterator of stream() first")
        return self._result

    def _rows(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        sampling: Sampling,
        seeds: int | Sequence[int],
        stop: Sequence[str],
        samples: int,
        top: int,
    ) -> list[_Row]:
        if not prompts:
            raise UsageError("there is no prompt")
        if max_tokens < 1:
            raise UsageError(f"max-tokens must be at least 1, got {max_tokens}")
        if samples < 1:
            raise UsageError(f"each prompt needs at least one sample, got {samples}")
        if top < 0:
            raise UsageError(f"the number of log-probabilities must be 0 or more, got {top}")
        count = len(prompts) * samples
        numbers = [seeds + index for index in range(count)] if isinstance(seeds, int) else list(seeds)
        if len(numbers) != count:
            what = f"{len(prompts)} prompts" + (f" of {samples} samples each" if samples > 1 else "")
            raise UsageError(f"there are {what}, but {len(numbers)} seeds", "give one seed a completion")
        ids = [self._tokenizer.encode(prompt) for prompt in prompts]
        for index, prompt in enumerate(ids):
            if not prompt:
                raise UsageError(f"prompt {index + 1} is empty", "give the model at least one token to continue")
        return [
            _Row(index, ids[index // samples], self._tokenizer, sampling, seed, stop, max_tokens, top)
            for index, seed in enumerate(numbers)
        ]

    def _run(self, rows: list[_Row], stop_tokens: frozenset[int], samples: int) -> Iterator[Piece]:
        session = self._session
        self._result = None
        started = time.perf_counter()
        session.reset(len(rows) // samples)
        logits = self._prefill([row.prompt for row in rows[::samples]])
        if samples > 1:
            sources = [row.index // samples for row in rows]
            session, logits = session.fork(sources), logits[sources]
        decoding = time.perf_counter()
        steps = 0
        while True:
            for row in rows:
                text = row.extend(logits[row.index], stop_tokens) if row.reason is None else ""
                if text:
                    yield Piece(row.index, text)
            lengths = np.array([row.reason is None for row in rows], np.int64)
            if not lengths.any():
                break
            logits = session.step(np.array([[row.tokens[-1]] for row in rows], np.int64), lengths)[:, 0]
            steps += 1
        self._result = Generation(
            completions=tuple(row.completion() for row in rows),
            runtime=session.runtime,
            prefill_seconds=decoding - started,
            decode_seconds=time.perf_counter() - decoding,
            steps=steps,
            state_bytes=session.state_bytes,
        )

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> NDArray[Any]:
        """Feed the prompts chunk by chunk, right-padded; return the logits (B,V) of each row's last token."""
        sizes = np.array([len(prompt) for prompt in prompts], np.int64)
        padded = np.zeros((len(prompts), int(sizes.max())), np.int64)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        last = np.empty((len(prompts), self._session.vocab_size), np.float32)
        for start in range(0, padded.shape[1], self._chunk):
            tokens = padded[:, start : start + self._chunk]
            lengths = np.clip(sizes - start, 0, tokens.shape[1])
            found = self._session.last_logits(tokens, lengths)
            ends = (sizes > start) & (sizes <= start + tokens.shape[1])
            last[ends] = found[ends]
        return last


def generate(
    model: str | Path | nn.Module,
    prompts: str | Sequence[str],
    *,
    max_tokens: int = 200,
    sampling: Sampling = DEFAULT_SAMPLING,
    seeds: int | Sequence[int] = 0,
    stop: Sequence[str] = (),
    stop_tokens: Sequence[int] = (),
    samples: int = 1,
    top_log_probabilities: int = 0,
    runtime: str | None = None,
    tokenizer: str | Path | None = None,
    on_text: Callable[[Piece], None] | None = None,
) -> Generation:
    """Load a model and continue prompts with it; to continue many, keep a `Generator`.

    Args:
        model: as for `DecodeSession`: a file, a checkpoint, or a language model of your own.
        prompts, max_tokens, sampling, seeds, stop, stop_tokens, samples, top_log_probabilities: see `Generator.stream`.
        runtime: see `DecodeSession`.
        tokenizer: a file, see `open_tokenizer`; None takes the one that belongs to the model, else bytes.
        on_text: is called with each piece of text as it becomes certain.

    Raises:
        UsageError: prompts that are empty or do not fit the state, or arguments that do not fit the model.
        BadInputError: a file that is missing, damaged or without a state.
        MissingDependencyError: the runtime or the tokenizer needs a package that is not installed.
    """
    generator = open_generator(model, prompts, max_tokens, runtime=runtime, tokenizer=tokenizer)
    for piece in generator.stream(
        prompts,
        max_tokens=max_tokens,
        sampling=sampling,
        seeds=seeds,
        stop=stop,
        stop_tokens=stop_tokens,
        samples=samples,
        top_log_probabilities=top_log_probabilities,
    ):
        if on_text is not None:
            on_text(piece)
    return generator.result


def open_generator(
    model: str | Path | nn.Module,
    prompts: str | Sequence[str],
    max_tokens: int,
    *,
    runtime: str | None = None,
    tokenizer: str | Path | None = None,
) -> Generator:
    """Return a generator with room for these prompts; arguments and errors as for `generate`."""
    session = DecodeSession(model, runtime, capacity=1)
    encoder = tokenizer_for(model, tokenizer, session.vocab_size)
    texts = [prompts] if isinstance(prompts, str) else prompts
    longest = max((len(encoder.encode(text)) for text in texts), default=0)
    session.reset(max(1, len(texts)), max(1, longest + max_tokens - 1))
    return Generator(session, encoder)


class _Row:
    """One sequence of a batch while it is generated."""

    def __init__(
        self,
        index: int,
        prompt: list[int],
        tokenizer: Tokenizer,
        sampling: Sampling,
        seed: int,
        stop: Sequence[str],
        max_tokens: int,
        top: int,
    ) -> None:
        self.index = index
        self.prompt = prompt
        self.tokens: list[int] = []
        self.reason: Literal["length", "stop"] | None = None
        self._seed = seed
        self._sampler = Sampler(sampling, seed, prompt)
        self._choices: list[Choice] = []
        self._top = top
        self._stream = tokenizer.stream()
        self._filter = StopFilter(stop)
        self._max_tokens = max_tokens
        self._text = ""

    def extend(self, logits: NDArray[Any], stop_tokens: frozenset[int]) -> str:
        """Choose the next token; return the text that became certain, and set `reason` when it was the last."""
        choice = self._sampler.pick(logits, self._top)
        token = choice.token
        self._choices.append(choice)
        self.tokens.append(token)
        ended = token in stop_tokens
        text = "" if ended else self._filter.push(self._stream.push(token))
        if ended or self._filter.stopped:
            self.reason = "stop"
        elif len(self.tokens) == self._max_tokens:
            self.reason = "length"
        if self.reason is not None and not self._filter.stopped:
            text += self._filter.push(self._stream.finish()) + self._filter.finish()
        self._text += text
        return text

    def completion(self) -> Completion:
        """Return the finished sequence."""
        assert self.reason is not None
        return Completion(
            self._text,
            tuple(self.tokens),
            len(self.prompt),
            self.reason,
            self._seed,
            tuple(choice.log_probability for choice in self._choices),
            tuple(choice.top for choice in self._choices) if self._top else (),
        )
