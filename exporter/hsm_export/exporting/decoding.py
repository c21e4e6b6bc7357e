"""Export of a language model's decoding step: how it is called, what it carries, and the runs that check the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..formats.state_spec import BATCH, CAPACITY, StateSpec
from .inputs import LENGTH, Arguments, Border, TraceInput, bind

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hsm_models.decoding import Decodable, DecodingModel

    from .source import Source

_TRACE_BATCH, _TRACE_LENGTH, _TRACE_CAPACITY = 2, 9, 24


@dataclass(frozen=True)
class DecodeOptions:
    """How to export a decoding step.

    Attributes:
        capacity: tokens that a row may reach where its state grows; None lets the host choose.
        rollback: tokens that a host may take back: states of slots get as many spare ones.
        last_logits: return the logits of each row's last valid token only.
    """

    capacity: int | None = None
    rollback: int = 0
    last_logits: bool = False


def decoding_source(source: Source, options: DecodeOptions, precision: str) -> Source:
    """Return the decoding step of a language model.

    Args:
        source: the language model.
        options: how to export it.
        precision: "fp32", "fp16" or "bf16".

    Raises:
        UsageError: the source is no language model that decodes, or sizes out of range.
        BadInputError: its decoding breaks the protocol, or departs from its own full pass.
    """
    from hsm_models.decoding import DecodingModel

    from .decoder_check import check_decoder, decoder_of, vocabulary

    decoder = decoder_of(source.module)
    state = StateSpec.of(
        decoder, precision, capacity=options.capacity, rollback=options.rollback, last_logits=options.last_logits
    )
    check_decoder(source.module, source.name)
    step = DecodingModel(source.module, options.last_logits).eval()
    runs = _Runs(source.module, state, decoder, vocabulary(source.module, source.name))
    return replace(
        source,
        module=step,
        task="language_model",
        arguments=_arguments(step, state, runs),
        output_names=("logits", *(tensor.present for tensor in state.tensors)),
        state=state,
        runs_at=runs.at,
        runs=(
            runs.prefill(_TRACE_BATCH, _TRACE_LENGTH, _TRACE_CAPACITY),
            runs.chunk(3, 5, _TRACE_CAPACITY + 3),
            runs.chunk(1, 1, _TRACE_CAPACITY - 1),
        ),
    )


def _arguments(step: DecodingModel, state: StateSpec, runs: _Runs) -> Arguments:
    """Describe how the step is called."""
    dynamic: dict[str, dict[int, str]] = {"tokens": {0: BATCH, 1: LENGTH}}
    dynamic |= {"position": {0: BATCH}, "lengths": {0: BATCH}}
    dynamic |= {
        tensor.past: {dim: size for dim, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in state.tensors
    }
    arguments = bind(step, runs.prefill(_TRACE_BATCH, _TRACE_LENGTH, _TRACE_CAPACITY), tuple(dynamic), dynamic)
    highest = {"tokens": runs.vocab_size - 1, "position": state.longest(), "lengths": None}
    types = {f"past.{name}": entry.type for name, entry in runs.entries.items()}
    borders: dict[str, Border] = {"model": "precision", "accumulator": "accumulator", "int64": "float32"}
    inputs: list[TraceInput] = []
    for spec in arguments.inputs:
        if spec.name in types:
            inputs.append(replace(spec, border=borders[types[spec.name]]))
        else:
            inputs.append(replace(spec, low=0, high=highest[spec.name]))
    return replace(arguments, inputs=tuple(inputs), shared=frozenset({CAPACITY}))


class _Runs:
    """Makes inputs of the step: tokens, positions, lengths and the state that the tokens before lead to.

    Args:
        model: the language model, in float32.
        state: its state in the file's precision.
        decoder: what decodes it.
        vocab_size: token ids V.
    """

    def __init__(self, model: nn.Module, state: StateSpec, decoder: Decodable, vocab_size: int) -> None:
        import torch

        self.entries = dict(decoder.state_entries(state.rollback))
        self.vocab_size = vocab_size
        self._model = model
        self._decoder = decoder
        self._state = state
        self._generator = torch.Generator().manual_seed(0)

    def prefill(self, batch: int, length: int, capacity: int) -> tuple[Tensor, ...]:
        """Return a first call; what lies in the slots of tokens before it must not matter."""
        import torch

        state = self._empty(batch, capacity)
        for tensor in self._state.tensors:
            if tensor.rollback != "snapshot" and state[tensor.name].is_floating_point():
                state[tensor.name].normal_(generator=self._generator)
        position = torch.zeros(batch, dtype=torch.int64)
        lengths = torch.tensor([max(1, self._room(length, capacity) - 5 * row) for row in range(batch)])
        return self._call(length, position, lengths, state)

    def at(self, sizes: Mapping[str, int]) -> tuple[tuple[Tensor, ...], ...]:
        """Return a first and a later call of these sizes."""
        size = sizes[BATCH], sizes[LENGTH], sizes.get(CAPACITY, 0)
        return self.prefill(*size), self.chunk(*size)

    def chunk(self, batch: int, length: int, capacity: int) -> tuple[Tensor, ...]:
        """Return a later call: one row is full, one stands still, one starts."""
        import torch

        from hsm_operators import use_kernels

        from ..runtimes.reference_maths import without_autocast

        room = self._room(7 + length, capacity)
        kinds = [min(length, room), 0, min(length, room, 2)]
        lengths = torch.tensor([kinds[row % 3] for row in range(batch)])
        position = torch.tensor([(room - kinds[0], min(3, room), 0)[row % 3] for row in range(batch)])
        with torch.no_grad(), without_autocast(), use_kernels(False):
            before = self._tokens(batch, max(1, int(position.max())))
            start = torch.zeros(batch, dtype=torch.int64)
            _, state = self._decoder.forward_cached(before, self._empty(batch, capacity), start, position)
        return self._call(length, position, lengths, state)

    def _call(self, length: int, position: Tensor, lengths: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the arguments of a call, the state rounded to its type in the file, so that nothing else rounds it."""
        past = [state[tensor.name].to(_torch_dtype(tensor.dtype)) for tensor in self._state.tensors]
        plain = (value.float() if value.is_floating_point() else value for value in past)
        return (self._tokens(len(position), length), position, lengths, *plain)

    def _tokens(self, batch: int, length: int) -> Tensor:
        import torch

        return torch.randint(0, self.vocab_size, (batch, length), generator=self._generator)

    def _empty(self, batch: int, capacity: int) -> dict[str, Tensor]:
        import torch

        from hsm_models.state import initial_state

        capacity = self._state.capacity or capacity
        return initial_state(self.entries, batch, capacity, torch.float32, torch.device("cpu"))

    def _room(self, wanted: int, capacity: int) -> int:
        """Return how many tokens a row may reach, at most as many as wanted."""
        return min(wanted, self._state.longest(capacity) or wanted)


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype
