"""A whole sequence from a step: what one token does to the states, done for one token after the other.

A step takes the states, the token's part of each input that has a dimension of time, and all other inputs as they are;
it returns the new states, in the order of its parameters, and then the outputs for that token. Because prompts, chunks
and single tokens all run it token by token, they are equal by construction. Rows stop at their length: there the states
stay what they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import OperatorError
from .operator import INT64, Operator, Port

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """The whole-sequence form of a step; calling it takes the operator's inputs in order and its attributes by name.

    Attributes:
        operator: its signature.
        step: the function of one token.
        parameters: the operator's inputs that the step takes, in its order.
        time: name of the dimension that counts tokens.
        lengths: name of the input that says how many tokens of each row are valid; "" is all.
    """

    operator: Operator
    step: Callable[..., Any]
    parameters: tuple[str, ...]
    time: str
    lengths: str

    @property
    def pasts(self) -> tuple[str, ...]:
        """The states' inputs, in the order in which the step takes and returns them."""
        known = {state.past for state in self.operator.states}
        return tuple(name for name in self.parameters if name in known)

    @property
    def results(self) -> tuple[Port, ...]:
        """The outputs that are no states."""
        presents = {state.present for state in self.operator.states}
        return tuple(port for port in self.operator.outputs if port.name not in presents)

    @property
    def batch(self) -> str:
        """Name of the dimension that counts rows; "" where rows have no lengths."""
        return self.operator.port(self.lengths).shape[0] if self.lengths else ""

    def axis(self, port: Port) -> int | None:
        """Return the dimension of a port that counts tokens."""
        return port.shape.index(self.time) if self.time in port.shape else None

    def named(self, results: Any) -> dict[str, Any]:
        """Return what the step returned, by the names of states' inputs and outputs.

        Raises:
            OperatorError: it returned another number of tensors.
        """
        names = (*self.pasts, *(port.name for port in self.results))
        found = results if isinstance(results, (tuple, list)) else (results,)
        if len(found) != len(names):
            raise OperatorError(
                f"{self.operator.qualified_name}: its step returned {len(found)} tensors instead of {len(names)}",
                f"return {', '.join(names)}: the new states, then the outputs",
            )
        return dict(zip(names, found, strict=True))

    def __call__(self, *inputs: Tensor, **attributes: Any) -> tuple[Tensor, ...]:
        """Run the step for all tokens."""
        import torch

        given = dict(zip((port.name for port in self.operator.inputs), inputs, strict=True))
        tokens = {port.name: axis for port in self.operator.inputs if (axis := self.axis(port)) is not None}
        count = next(given[name].shape[axis] for name, axis in tokens.items())
        valid = self._valid(given, count)
        given |= {name: self._masked(given[name], self.operator.port(name), valid) for name in tokens}
        outputs: dict[str, list[Tensor]] = {port.name: [] for port in self.results}
        for token in range(count):
            now = given | {name: given[name].select(axis, token) for name, axis in tokens.items()}
            found = self.named(self.step(*(now[name] for name in self.parameters), **attributes))
            for past in self.pasts:
                given[past] = self._advanced(past, found[past], given[past], valid, token)
            for name, values in outputs.items():
                values.append(found[name])
        last = {state.present: given[state.past] for state in self.operator.states}
        for port in self.results:
            axis = port.shape.index(self.time)
            last[port.name] = torch.stack(outputs[port.name], axis) if count else self._nothing(port, given)
        return tuple(last[port.name] for port in self.operator.outputs)

    def _valid(self, given: Mapping[str, Tensor], count: int) -> Tensor | None:
        """Return which tokens are valid, (B,T)."""
        import torch

        if not self.lengths:
            return None
        lengths = given[self.lengths]
        return torch.arange(count, device=lengths.device) < lengths.unsqueeze(1)

    def _masked(self, tensor: Tensor, port: Port, valid: Tensor | None) -> Tensor:
        """Put zeros beyond a row's length: what stands there may be NaN, which would spread in the gradient."""
        import torch

        if valid is None or self.batch not in port.shape:
            return tensor
        axes = port.shape.index(self.batch), port.shape.index(self.time)
        keep = valid if axes[0] < axes[1] else valid.t()
        shape = [size if axis in axes else 1 for axis, size in enumerate(tensor.shape)]
        return torch.where(keep.reshape(shape), tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))

    def _advanced(self, past: str, new: Tensor, old: Tensor, valid: Tensor | None, token: int) -> Tensor:
        import torch

        if new.shape != old.shape:
            raise OperatorError(
                f"{self.operator.qualified_name}: its step returned {past} of shape {tuple(new.shape)}, "
                f"and took it as {tuple(old.shape)}"
            )
        if valid is None:
            return new.to(old.dtype)
        axis = self.operator.port(past).shape.index(self.batch)
        active = valid[:, token].reshape([-1 if place == axis else 1 for place in range(old.dim())])
        return torch.where(active, new.to(old.dtype), old)

    def _nothing(self, port: Port, given: Mapping[str, Tensor]) -> Tensor:
        """Return an output of no token."""
        sizes = {
            name: size
            for known in self.operator.inputs
            for name, size in zip(known.shape, given[known.name].shape, strict=True)
        }
        first = next(given[known.name] for known in self.operator.inputs if known.type == "T")
        return first.new_empty([sizes[name] for name in port.shape])


def steps_of(operator: Operator, step: Callable[..., Any], time: str = "T") -> Steps:
    """Return the whole-sequence form of a step.

    Args:
        operator: its signature.
        step: the function of one token; its parameters are called as the inputs and attributes.
        time: name of the dimension that counts tokens.

    Raises:
        OperatorError: step and signature do not fit each other; says where.
    """
    name = operator.qualified_name
    ports = {port.name: port for port in operator.inputs}
    taken = tuple(parameter for parameter in inspect.signature(step).parameters if parameter in ports)
    left = [port for port in operator.inputs if port.name not in taken]
    lengths = _lengths(name, left, time)
    pasts = {state.past for state in operator.states}
    if not pasts:
        raise OperatorError(
            f"{name} has a step and no state", "an output that has an input's name is its new value: …, s -> y, s"
        )
    steps = Steps(operator, step, taken, time, lengths)
    if not any(time in port.shape for port in operator.inputs):
        raise OperatorError(f"{name}: no input has the dimension {time}", "say which one counts tokens with time=")
    for state in operator.states:
        shape = ports[state.past].shape
        if time in shape:
            raise OperatorError(f"{name}: the state {state.past} has the dimension {time}, that of the tokens")
        if lengths and steps.batch not in shape:
            raise OperatorError(f"{name}: the state {state.past} has no dimension {steps.batch}, so no row can stop")
    for port in steps.results:
        if time not in port.shape:
            raise OperatorError(
                f"{name}: output {port.name} has no dimension {time}, so it is not of a token", "make it a state"
            )
    return steps


def _lengths(name: str, left: Sequence[Port], time: str) -> str:
    """Return the input that says how many tokens are valid: the one that the step does not take."""
    if not left:
        return ""
    port = left[0]
    fits = port.type == INT64 and len(port.shape) == 1 and port.rows is not None and port.rows.most == time
    if len(left) > 1 or not fits:
        raise OperatorError(
            f"{name}: its step does not take {', '.join(port.name for port in left)}",
            f"only the number of valid tokens may be left out: lengths: int64[B] in 0..{time}",
        )
    return port.name
