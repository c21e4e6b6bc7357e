"""Greedy text of any runtime, token by token: from full passes over the growing sequence, or with a state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..comparison.predictions import LanguageMetrics
    from ..formats.state_spec import StateSpec
    from ..onnx_model.model_file import ModelFile
    from ..runtimes.runtime import RunContext, Runtime

Array = NDArray[Any]

STEPS = 32
PROMPT = 16


@dataclass(frozen=True)
class Generation:
    """Greedy text.

    Attributes:
        tokens: (N) the most probable token after the prompt, then after each of them.
        logits: (N,V) float64 from which each was chosen.
    """

    tokens: tuple[int, ...]
    logits: Array


def generate(
    file: ModelFile,
    runtime: Runtime,
    context: RunContext,
    prompt: Array,
    steps: int = STEPS,
    until: Generation | None = None,
) -> Generation:
    """Generate greedily with a runtime; whatever it raises comes through.

    Args:
        file: a language model (see `predictions.scored_output`); one with a state makes calls with it, any other reads
            the whole sequence for every token.
        runtime: what runs the model. Not wrapped by `validation.stepping`.
        context: its context; the source of a file with a state must be that of `validation.decoding_source`.
        prompt: (L,) tokens; what the model has no room for is cut off at the front.
        steps: tokens to generate at most: fewer where the model's longest sequence ends.
        until: stop at the first token that is not this generation's.
    """
    from ..validation.running import quiet

    with quiet():
        if file.metadata.get("decode") == "1":
            return _with_state(file, runtime, context, prompt, steps, until)
        return _full_passes(file, runtime, context, prompt, steps, until)


def _full_passes(
    file: ModelFile, runtime: Runtime, context: RunContext, prompt: Array, steps: int, until: Generation | None
) -> Generation:
    from ..comparison.predictions import scored_output
    from .inputs.feeds import longest_sequence

    _, output = scored_output(file)
    limit = longest_sequence(file)
    start = prompt if limit is None else prompt[-max(1, limit - steps) :]
    sequence = [int(token) for token in start]
    text = _Text(until)
    with runtime.runner(context) as runner:
        for _ in range(steps):
            if limit is not None and len(sequence) > limit:
                break
            outputs = runner.infer(_whole_feed(file, context, sequence), check_inputs=False)
            sequence.append(text.push(outputs[output][0, len(sequence) - 1]))
            if text.departed:
                break
    return text.generation()


def _whole_feed(file: ModelFile, context: RunContext, sequence: list[int]) -> dict[str, Any]:
    """Return the inputs of one pass over a sequence; a causal model does not see what is padded on the right."""
    spec = file.tokens
    assert spec is not None
    batch, length = spec.shape
    rows = batch if isinstance(batch, int) else 1
    padded = np.zeros((rows, length if isinstance(length, int) else len(sequence)), spec.dtype)
    padded[:, : len(sequence)] = sequence
    feed: dict[str, Any] = {spec.name: padded, **{node.mask: node.free_mask() for node in context.routed}}
    if file.lengths is not None:
        feed[file.lengths.name] = np.full(rows, len(sequence), file.lengths.dtype)
    return feed


def _with_state(
    file: ModelFile, runtime: Runtime, context: RunContext, prompt: Array, steps: int, until: Generation | None
) -> Generation:
    from ..validation.stepping import SteppingRunner, empty_state

    spec = file.state()
    start = _fitting(prompt, spec, steps)
    room = (spec.longest() or len(start) + steps) - len(start) + 1
    state = empty_state(spec, 1, len(start) + steps)
    tokens, position = start[None].astype(np.int64), 0
    text = _Text(until)
    with SteppingRunner(runtime.runner(context), spec, context.routed, runtime.name) as runner:
        for _ in range(min(steps, room)):
            call = _call(tokens, position)
            outputs, state = runner.call(call, state)
            position += tokens.shape[1]
            tokens = np.array([[text.push(outputs["logits"][0, -1])]], np.int64)
            if text.departed:
                break
    return text.generation()


def _fitting(prompt: Array, spec: StateSpec, steps: int) -> Array:
    longest = spec.longest()
    return prompt if longest is None else prompt[-max(1, longest - steps) :]


def _call(tokens: Array, position: int) -> Any:
    from ..validation.stepping import Call

    steps = np.arange(tokens.shape[1])[None]
    return Call(
        tokens, np.array([position]), np.array([tokens.shape[1]]), position + steps, np.ones(tokens.shape, bool)
    )


class _Text:
    """Tokens as they are chosen."""

    def __init__(self, until: Generation | None) -> None:
        self._until = until
        self._tokens: list[int] = []
        self._logits: list[Array] = []
        self.departed = False

    def push(self, logits: Array) -> int:
        """Choose the most probable token (V,), the first of equal ones."""
        numbers = np.asarray(logits, np.float64)
        token = int(numbers.argmax())
        if self._until is not None:
            index = len(self._tokens)
            self.departed = index >= len(self._until.tokens) or token != self._until.tokens[index]
        self._tokens.append(token)
        self._logits.append(numbers)
        return token

    def generation(self) -> Generation:
        return Generation(tuple(self._tokens), np.array(self._logits))


def with_generation(metrics: LanguageMetrics, reference: Generation, own: Generation) -> LanguageMetrics:
    """Return the metrics with where a runtime's greedy text leaves the reference's.

    Args:
        metrics: of the same runtime.
        reference: what the reference generated.
        own: what the runtime generated from the same prompt, at least up to the first token that differs.
    """
    pairs = zip(reference.tokens, own.tokens, strict=False)
    first = next((index for index, (expected, token) in enumerate(pairs) if expected != token), None)
    diverging = None
    if first is not None:
        expected, token = reference.tokens[first], own.tokens[first]
        diverging = (expected, token, float(reference.logits[first][expected] - reference.logits[first][token]))
    return replace(
        metrics,
        greedy_tokens=len(reference.tokens),
        first_divergence=first,
        diverging=diverging,
    )
