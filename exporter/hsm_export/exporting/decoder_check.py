"""Hold a model's decoding to the protocol, and to one pass over the same tokens, before anything is exported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import BadInputError, UsageError, first_line
from ..runtimes.reference_maths import reference_maths
from ..torch_model.user_module import copied

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hsm_models.decoding import Decodable
    from hsm_models.state import State

# What decoding may differ from one pass, relative to the largest logit: in float64, and in float32 where the model
# runs in nothing else.
_SAME, _SAME_IN_FLOAT32 = 1e-8, 1e-3
_TOKENS = 9
_NAME = re.compile(r"[\w.\-]+")
_DOCUMENT = "docs/decoding.md says what a language model of your own keeps to"


def decoder_of(model: nn.Module) -> Decodable:
    """Return what decodes a model.

    Raises:
        UsageError: nothing does.
    """
    from hsm_models.decoding import decodable

    try:
        decoder = decodable(model)
    except TypeError as error:
        raise UsageError(str(error), _DOCUMENT) from error
    try:
        decoder.state_entries()
    except TypeError as error:  # of a mixer that is not causal
        raise UsageError(f"{type(model).__name__} does not decode: {error}", _DOCUMENT) from error
    return decoder


def vocabulary(model: nn.Module, name: str) -> int:
    """Return V, the last size of the logits of one token.

    Raises:
        BadInputError: the model does not map tokens (B,T) to logits (B,T,V).
    """
    import torch

    try:
        with reference_maths():
            logits = model(torch.zeros((1, 1), dtype=torch.int64))
    except Exception as error:  # whatever the user's module raises
        raise BadInputError(f"{name} does not read token ids (1, 1): {first_line(error)}", _DOCUMENT) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3 or not logits.is_floating_point():
        what = f"a tensor {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BadInputError(f"{name} maps token ids (1, 1) to {what}, not to logits (1, 1, V)", _DOCUMENT)
    return int(logits.shape[-1])


def check_decoder(model: nn.Module, name: str) -> None:
    """Decode two rows in three calls of different length, and compare with one pass over them.

    Raises:
        BadInputError: the model breaks the protocol, or its numbers or those of a row that stands still differ.
    """
    import torch

    longest = getattr(decoder_of(model), "max_length", 0) or _TOKENS
    shape = (2, min(_TOKENS, longest))
    tokens = torch.randint(0, vocabulary(model, name), shape, generator=torch.Generator().manual_seed(0))
    try:
        _Trial(copied(model, torch.float64), name, tokens, torch.float64, _SAME).run()
    except _CannotRunError:
        # It may mix types; what is wrong with the protocol itself shows in float32 too.
        _Trial(model, name, tokens, torch.float32, _SAME_IN_FLOAT32).run()


class _CannotRunError(BadInputError):
    """The user's module raised something."""


class _Trial:
    """One comparison of decoding with a full pass."""

    def __init__(self, model: nn.Module, name: str, tokens: Tensor, dtype: torch.dtype, same: float) -> None:
        self._model = model
        self._name = name
        self._tokens = tokens
        self._dtype = dtype
        self._same = same
        self._decoder = decoder_of(model)
        self._entries = dict(self._decoder.state_entries())
        for key in self._entries:
            if not _NAME.fullmatch(key):
                raise UsageError(f"{name} has a state called {key!r}", "use letters, digits, _, - and . in names")

    def run(self) -> None:
        """Raise when something is wrong."""
        import torch

        from hsm_models.state import initial_state

        length = self._tokens.shape[1]
        with reference_maths(self._dtype):
            whole = self._whole()
            state = initial_state(self._entries, 2, length, self._dtype, self._tokens.device)
            position = torch.zeros(2, dtype=torch.int64)
            for taken in ((length - length // 2, 0), (0, 1), (length // 2, length - 1)):
                if max(taken):
                    state = self._call(state, position, torch.tensor(taken), whole)
                    position = position + torch.tensor(taken)

    def _whole(self) -> Tensor:
        try:
            logits: Tensor = self._model(self._tokens)
        except Exception as error:  # whatever the user's module raises
            what = f"{self._name} fails for token ids {tuple(self._tokens.shape)}: {first_line(error)}"
            raise _CannotRunError(what, _DOCUMENT) from error
        return logits

    def _call(self, state: State, position: Tensor, lengths: Tensor, whole: Tensor) -> State:
        import torch

        steps = torch.arange(int(lengths.max()))
        valid = steps < lengths.unsqueeze(1)
        index = (position.unsqueeze(1) + steps).clamp(max=self._tokens.shape[1] - 1)
        # Padding is neither what follows nor zero, so that it shows where it enters anything.
        piece = torch.where(valid, self._tokens.gather(1, index), self._tokens[:, :1])
        logits, after = self._cached(piece, {key: value.clone() for key, value in state.items()}, position, lengths)
        self._require_state(after, state)
        expected = whole.gather(1, index.unsqueeze(-1).expand(-1, -1, whole.shape[-1]))
        if logits.shape != expected.shape:
            self._refuse(f"returns logits {tuple(logits.shape)} instead of {tuple(expected.shape)}")
        error = float((logits - expected).abs()[valid].max())
        if not error <= self._same * float(whole.abs().max()):
            self._refuse(f"differs from forward by {error:.3g}: the same tokens, read in pieces, give other logits")
        for row in torch.nonzero(lengths == 0).flatten().tolist():
            for key, value in state.items():
                if not torch.equal(after[key][row], value[row]):
                    self._refuse(f"changes the state {key} of a row that reads nothing (its length is 0)")
        return after

    def _cached(self, tokens: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        try:
            logits, after = self._decoder.forward_cached(tokens, state, position, lengths)
        except Exception as error:  # whatever the user's module raises
            what = f"{self._name}: forward_cached fails for tokens {tuple(tokens.shape)}: {first_line(error)}"
            raise _CannotRunError(what, _DOCUMENT) from error
        return logits, after

    def _require_state(self, after: Mapping[str, Tensor], before: State) -> None:
        if set(after) != set(before):
            self._refuse(f"returns the state {sorted(after)} instead of {sorted(before)}")
        for key, value in before.items():
            if after[key].shape != value.shape or after[key].dtype != value.dtype:
                found, wanted = (f"{item.dtype} {tuple(item.shape)}" for item in (after[key], value))
                self._refuse(f"returns the state {key} as {found} instead of {wanted}".replace("torch.", ""))

    def _refuse(self, problem: str) -> None:
        raise BadInputError(f"{self._name}: forward_cached {problem}", _DOCUMENT)
