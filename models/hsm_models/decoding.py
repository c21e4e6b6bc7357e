"""Models that decode: the protocol, modules that carry state, and the step of a model with plain tensors in and out.

Any causal language model decodes that follows `Decodable`. It need not be written by hand: a model whose sub-modules
with a memory are `StatefulModule`s has only its `forward`, and `decodable` derives the rest:

    class Shift(StatefulModule):
        def state_entries(self, rollback=0):
            return {"last": StateEntry((1, self.width))}

        def step(self, x, state, position, lengths):
            known, last = extended(state["last"], x, lengths)
            return self.mix(x, known[:, :-1]), {"last": last}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from .rows import take_rows
from .state import State, StateEntry, initial_state

__all__ = [
    "Decodable",
    "DecodingModel",
    "State",
    "StateEntry",
    "StatefulModule",
    "decodable",
    "extended",
    "scanned",
    "valid",
    "written",
]


@runtime_checkable
class Decodable(Protocol):
    """What decoding needs of a causal language model, an nn.Module.

    Optional attributes: `max_length`, the tokens that a row may reach because of the model's positions; 0 or absent
    means any number.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B,T) int64 to logits (B,T,V), those of t from the tokens up to t."""
        ...

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        """Describe what a row carries from call to call, by name: "{path of the module}.{key}".

        Args:
            rollback: tokens that a row may take back; states of slots get as many spare ones.
        """
        ...

    def forward_cached(self, tokens: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """Continue each row from its state: one token, a chunk or a prompt are the same call.

        A parameter `last_only`, if there is one, is true where only the logits (B,1,V) of each row's last valid token
        are wanted.

        Args:
            tokens: (B,T) int64, right-padded with any ids.
            state: name -> tensor (B,...) as `state_entries` describes; zeros before the first token. It stays as it is.
            position: (B,) int64, tokens of each row that came before.
            lengths: (B,) int64, valid tokens of each row in this call, 0..T.

        Returns:
            The logits (B,T,V), unspecified beyond `lengths`, and the state after the valid tokens; that of a row of
            length 0 is the state before, to the bit.
        """
        ...


class StatefulModule(nn.Module):
    """A module with a memory of earlier tokens, anywhere in a model.

    Override `state_entries` and `step`, and call the module as any other. While the model decodes, its calls continue
    from the state that the module had; otherwise they start from zeros. A module without a state of its own may
    override `step` alone, to know the position of its tokens.
    """

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        """Describe the module's own state: key -> tensor; that of modules inside it is theirs."""
        return {}

    def _step(self, *inputs: Any, state: State, position: Tensor, lengths: Tensor) -> tuple[Any, State]:
        """Compute the output for the next tokens of each row, and the state after them.

        Args:
            *inputs: what the module was called with; the first one is (B,T,...).
            state: key -> tensor (B,...), zeros before the first token. It stays as it is.
            position: (B,) int64, tokens of each row that came before.
            lengths: (B,) int64, valid tokens of each row, 0..T: the rest is padding, which must not enter the state.

        Returns:
            The output, unspecified beyond `lengths`, and the state after the valid tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step")

    def _whole(self, *inputs: Any) -> Any:
        """Compute the output for whole sequences; override it where there is a better way than `step` from zeros."""
        x: Tensor = inputs[0]
        batch, length = x.shape[:2]
        like = next((p for p in self.parameters() if p.is_floating_point()), x)
        state = initial_state(self.state_entries(), batch, length, like.dtype, x.device)
        start = torch.zeros(batch, dtype=torch.int64, device=x.device)
        return self.step(*inputs, state=state, position=start, lengths=torch.full_like(start, length))[0]

    # Attributes, as nn.Module's own forward is one: a type checker lets subclasses name and count the inputs.
    step: Callable[..., tuple[Any, State]] = _step
    whole: Callable[..., Any] = _whole

    def forward(self, *inputs: Any) -> Any:
        """Call `step` with the module's state while the model decodes, else `whole`."""
        call = _CALL.get()
        return self.whole(*inputs) if call is None else call.step(self, inputs)


def is_decoding() -> bool:
    """Return whether the model is inside a call that continues from a state."""
    return _CALL.get() is not None


def decodable(model: nn.Module) -> Decodable:
    """Return what decodes a model: itself if it is `Decodable`, else what follows from its stateful modules.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(model, StatefulModule) and isinstance(model, Decodable):
        return model
    if any(isinstance(module, StatefulModule) for module in model.modules()):
        return _Derived(model)
    raise TypeError(
        f"{type(model).__name__} does not decode: it has neither forward_cached and state_entries, nor a StatefulModule"
    )


def extended(past: Tensor, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Put the last tokens of earlier calls before those of this one: what shifts and short convolutions need.

    Args:
        past: (B,K,...), the K tokens before x; zeros where there was none.
        x: (B,T,...), the new tokens, right-padded.
        lengths: (B,) int64, valid tokens of each row.

    Returns:
        The K + T tokens (B,K+T,...), and the last K valid ones of them (B,K,...), which is the next call's `past`.
    """
    known = torch.cat((past, x.to(past.dtype)), dim=1)
    own = torch.arange(past.shape[1], device=x.device)
    return known, take_rows(known, lengths.unsqueeze(1) + own)


def written(past: Tensor, x: Tensor, position: Tensor, lengths: Tensor) -> Tensor:
    """Write new tokens into a state that grows, that of position p into slot p: what attention needs.

    Args:
        past: (B,C,...), C the capacity.
        x: (B,T,...), the new tokens, right-padded.
        position: (B,) int64, tokens of each row that came before.
        lengths: (B,) int64, valid tokens of each row.

    Returns:
        (B,C,...), whose slots from `position + lengths` on hold what they held before.

    Raises:
        ValueError: a row outgrows the capacity (checked in eager mode only: in an exported graph the runtime refuses to
            write beyond it).
    """
    if not torch.compiler.is_compiling():
        longest = int((position + lengths).max())
        if longest > past.shape[1]:
            raise ValueError(f"the state holds {past.shape[1]} tokens, but a row reaches {longest}")
    # Padding repeats the last valid token, and a row without one rewrites a slot with what it holds: so every index is
    # in range if and only if the row fits, and equal indices write equal values.
    source = torch.arange(x.shape[1], device=x.device).unsqueeze(0).minimum((lengths - 1).clamp(min=0).unsqueeze(1))
    is_new = (lengths > 0).unsqueeze(1)
    idle = (position - 1).clamp(min=0).unsqueeze(1)
    slot = torch.where(is_new, position.unsqueeze(1) + source, idle)
    row = torch.arange(past.shape[0], device=x.device).unsqueeze(1).expand(slot.shape)
    is_new = is_new.reshape(-1, *[1] * (past.dim() - 1))
    values = torch.where(is_new, take_rows(x.to(past.dtype), source), take_rows(past, idle))
    return past.index_put((row, slot), values)


def valid(x: Tensor, lengths: Tensor) -> Tensor:
    """Return which tokens of x (B,T,...) are none of the padding, (B,T) bool."""
    return torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)


def scanned(
    one: Callable[..., tuple[Tensor, Tensor]], state: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Run a function of one token over time: what recurrences need. An exported graph has an ONNX Scan.

    Args:
        one: (state, *tokens) -> the next state and the token's output; `tokens` are inputs (B,...) of one time.
        state: (B,...), that before the first token.
        inputs: each (B,T,...), T >= 1.

    Returns:
        The state after the last token and the outputs (B,T,...).
    """
    if torch.compiler.is_compiling():
        from torch._higher_order_ops.scan import scan

        after: tuple[Tensor, Tensor] = scan(lambda s, tokens: _apart(one(s, *tokens)), state, tuple(inputs), dim=1)
        return after
    # Outside of an export a loop: scan would compile the function anew for every length.
    outputs = []
    for tokens in zip(*(x.unbind(1) for x in inputs), strict=True):
        state, output = one(state, *tokens)
        outputs.append(output)
    return state, torch.stack(outputs, dim=1)


def _apart(result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return two tensors that share no memory, which scan asks for."""
    state, output = result
    return state, output.clone()


@dataclass
class _Call:
    """One call of a model that decodes: what its modules find, and what they leave."""

    paths: dict[int, str]
    state: State
    position: Tensor
    lengths: Tensor
    after: State = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def step(self, module: StatefulModule, inputs: tuple[Any, ...]) -> Any:
        identity = _identity(module)
        path = self.paths.get(identity)
        if path is None:
            raise ValueError(f"{type(module).__name__} carries state, but it is no sub-module of the model")
        if identity in self.seen:
            raise ValueError(f"{path or type(module).__name__} is called twice in a step, but it has one state")
        self.seen.add(identity)
        keys = module.state_entries()
        own = {key: self.state[_joined(path, key)] for key in keys}
        output, after = module.step(*inputs, state=own, position=self.position, lengths=self.lengths)
        if set(after) != set(keys):
            raise ValueError(f"{path}: step returned the state {sorted(after)} instead of {sorted(keys)}")
        self.after |= {_joined(path, key): value for key, value in after.items()}
        return output


_CALL: ContextVar[_Call | None] = ContextVar("call", default=None)


class _Derived:
    """The protocol, from the stateful modules of a model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @property
    def max_length(self) -> int:
        return getattr(self._model, "max_length", None) or 0

    def forward(self, tokens: Tensor) -> Tensor:
        return cast("Tensor", self._model(tokens))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {
            _joined(path, key): entry
            for path, module in self._stateful()
            for key, entry in module.state_entries(rollback).items()
        }

    def forward_cached(self, tokens: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        call = _Call({_identity(module): path for path, module in self._stateful()}, state, position, lengths)
        token = _CALL.set(call)
        try:
            logits = self.forward(tokens)
        finally:
            _CALL.reset(token)
        missing = [name for name in self.state_entries() if name not in call.after]
        if missing:
            raise ValueError(f"forward calls no module that carries the state {missing[0]}")
        return logits, call.after

    def _stateful(self) -> Iterator[tuple[str, StatefulModule]]:
        for path, module in self._model.named_modules():
            if isinstance(module, StatefulModule):
                yield path, module


def _identity(module: nn.Module) -> int:
    """Return what tells a module from others, also inside torch.export, which calls stand-ins with the same content."""
    return id(module._parameters)


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class DecodingModel(nn.Module):
    """The next tokens of each row and its state, to logits and the new state.

    It has the model's own sub-modules, parameters and buffers, under their names.

    Args:
        model: a language model that decodes; see `decodable`.
        last_logits: return the logits of each row's last valid token only.
        state_names: names of the state's tensors, in the order in which forward takes and returns them; None means
            the model's own order.

    Raises:
        TypeError: the model does not decode.
    """

    def __init__(self, model: nn.Module, last_logits: bool = False, state_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.last_logits = last_logits
        self.state_names = tuple(decodable(model).state_entries() if state_names is None else state_names)
        self.__dict__["model"] = model  # not a sub-module: the names stay what they are
        for content in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[content] = model.__dict__[content]
        self.training = model.training

    def whole(self, tokens: Tensor) -> Tensor:
        """Map tokens (B,T) to the logits (B,T,V) of one pass over them, without a state."""
        return cast("Tensor", self._own()(tokens))

    def forward(self, tokens: Tensor, position: Tensor, lengths: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Call `forward_cached` with the state's tensors in the order of `state_names`.

        Returns:
            The logits, then the new state's tensors in the same order.

        Raises:
            ValueError: as `forward_cached`, or another number of state tensors.
        """
        state = dict(zip(self.state_names, past, strict=True))
        cached: Callable[..., tuple[Tensor, State]] = decodable(self._own()).forward_cached
        own = self.last_logits and "last_only" in inspect.signature(cached).parameters
        logits, state = cached(tokens, state, position, lengths, **({"last_only": True} if own else {}))
        if self.last_logits and not own:
            logits = take_rows(logits, (lengths - 1).clamp(min=0).unsqueeze(1))
        return (logits, *(state[name] for name in self.state_names))

    def _own(self) -> nn.Module:
        """Return the model, in the mode of this module."""
        model: nn.Module = self.__dict__["model"]
        model.training = self.training
        return model
