"""Recurrent layers of PyTorch as single operators of a trace, which become ONNX's GRU, LSTM and RNN.

Left alone, torch.export unrolls them: a graph for one length. While a module is traced, `kept_recurrent` makes nn.GRU,
nn.LSTM and nn.RNN call one opaque operator per layer. Packed sequences stay padded in it: their lengths go along, and
become ONNX's `sequence_lens`. An LSTM with a projection, which ONNX has not, is an ordinary one on another state:

    h' = P (o * tanh(c)),  gates = W x + R h' + b    is    gates = W x + (R P) h + b  with  h = o * tanh(c),  h' = P h

where what a first state h'_0 adds to the gates, R h'_0, comes in with the first token.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

NAMESPACE = "hsm_export"
# Which of PyTorch's gates stands at each place of ONNX's: (r, z, n) -> (z, r, h) and (i, f, g, o) -> (i, o, f, c).
_GATES = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2), "RNN": (0,)}


@dataclass(frozen=True)
class Lengths:
    """In a traced PackedSequence what `batch_sizes` is: the tokens (T,B,...) stay padded, and their lengths stand here.

    Attributes:
        tensor: (B,) int64.
        time: T.
        batch: B.
    """

    tensor: Tensor
    time: Any
    batch: Any

    @property
    def device(self) -> Any:
        return self.tensor.device

    def __getitem__(self, index: int) -> Any:
        return self.batch

    def size(self, dim: int) -> _Longest:
        return _Longest()


class _Longest:
    """The longest of the lengths, which only a run knows; no total length is less."""

    def __gt__(self, other: object) -> bool:
        return False


@contextlib.contextmanager
def kept_recurrent() -> Iterator[None]:
    """Keep recurrent layers that are called with a tracer's tensors inside the block as one operator a layer."""
    from torch.nn.modules import rnn
    from torch.nn.utils import rnn as packing

    _register()

    def checked(own: Callable[..., None]) -> Callable[..., None]:
        def check(self: Any, input: Any, hidden: Any, batch_sizes: Any) -> None:
            if not isinstance(batch_sizes, Lengths):  # else what is checked is a size that the trace leaves open
                own(self, input, hidden, batch_sizes)

        return check

    shim = _Functions()
    changes: list[tuple[Any, str, Any]] = [(rnn, "_VF", shim), (packing, "_VF", shim)]
    changes += [(layer, "check_forward_args", checked(layer.check_forward_args)) for layer in (rnn.RNNBase, rnn.LSTM)]
    before = [(place, name, getattr(place, name)) for place, name, _ in changes]
    try:
        for place, name, value in changes:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def refuse_packed(result: Any, name: str) -> None:
    """Raise BadInputError where a module's result is or has a packed sequence, which no tensor of a file is."""
    from torch.nn.utils.rnn import PackedSequence

    if isinstance(result, PackedSequence) or (
        isinstance(result, (tuple, list)) and any(isinstance(item, PackedSequence) for item in result)
    ):
        raise BadInputError(
            f"{name} returns a packed sequence, which is no tensor", "return what pad_packed_sequence makes of it"
        )


class _Functions:
    """What stands in the place of `torch._VF` in PyTorch's recurrent layers."""

    def __getattr__(self, name: str) -> Any:
        from torch import _VF

        own = getattr(_VF, name)
        substitute = _SUBSTITUTES.get(name)
        if substitute is None:
            return own

        def call(*arguments: Any) -> Any:
            return substitute(name, *arguments) if _is_traced(arguments[0]) else own(*arguments)

        return call


def _is_traced(value: Any) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(value, FakeTensor)


def _layers(kind: str, x: Tensor, *arguments: Any) -> Any:
    """Compute all layers of one of torch.gru, torch.lstm, torch.rnn_tanh and torch.rnn_relu, packed or not.

    Args:
        kind: which.
        x: (T,B,I), or (B,T,I) with batch_first; in packed sequences (T,B,I).
        arguments: those of the function.
    """
    from torch import _VF

    lengths: Lengths | None = None
    if not isinstance(arguments[2], bool):  # a packed sequence's lengths, then the state, then the weights
        if not isinstance(arguments[0], Lengths):
            raise BadInputError(
                f"nn.{kind.split('_')[0].upper()} gets a packed sequence that forward did not pack itself",
                "call torch.nn.utils.rnn.pack_padded_sequence inside forward, on a padded input and its lengths",
            )
        lengths, *rest = arguments
        hidden, weights, _, layers, dropout, train, bidirectional = rest
        batch_first = False
    else:
        hidden, weights, _, layers, dropout, train, bidirectional, batch_first = arguments
    if train and dropout > 0 and layers > 1:  # draws random numbers, which is refused later on
        assert lengths is None
        return getattr(_VF, kind)(x, *arguments)
    states = list(hidden) if isinstance(hidden, (list, tuple)) else [hidden]
    return _stack(
        kind,
        x.transpose(0, 1) if batch_first else x,
        None if lengths is None else lengths.tensor,
        states,
        _by_direction(list(weights), layers * (2 if bidirectional else 1)),
        bidirectional,
        batch_first,
    )


def _by_direction(weights: list[Tensor], count: int) -> list[list[Tensor]]:
    """Return the weights of each layer's each direction."""
    each = len(weights) // count
    return [weights[each * index : each * (index + 1)] for index in range(count)]


def _stack(
    kind: str,
    x: Tensor,
    lengths: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[list[Tensor]],
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Compute layer after layer: x (T,B,I) -> the last layer's results, and the final states of all layers."""
    import torch

    directions = 2 if bidirectional else 1
    finals: list[list[Tensor]] = [[] for _ in states]
    for first in range(0, len(weights), directions):
        own = [state[first : first + directions] for state in states]
        layer = weights[first : first + directions]
        projected = kind == "lstm" and len(layer[0]) in (3, 5)
        x, *final = (_projected if projected else _layer)(kind, x, lengths, own, layer)
        for found, value in zip(finals, final, strict=True):
            found.append(value)
    ends = [torch.cat(found) if len(found) > 1 else found[0] for found in finals]
    return (x.transpose(0, 1) if batch_first else x, *ends)


def _layer(
    kind: str,
    x: Tensor,
    lengths: Tensor | None,
    states: Sequence[Tensor],
    weights: Sequence[list[Tensor]],
    direction: str = "",
) -> Sequence[Tensor]:
    """Call the operator of one layer."""
    import torch

    own = getattr(torch.ops, NAMESPACE)
    flat = [tensor for each in weights for tensor in each]
    direction = direction or ("bidirectional" if len(weights) == 2 else "forward")
    if kind == "lstm":
        found: Sequence[Tensor] = own.lstm(x, lengths, *states, flat, direction)
    elif kind == "gru":
        found = own.gru(x, lengths, *states, flat, direction)
    else:
        found = own.rnn(x, lengths, *states, flat, direction, kind.removeprefix("rnn_").capitalize())
    return found


def _projected(
    kind: str, x: Tensor, lengths: Tensor | None, states: Sequence[Tensor], weights: Sequence[list[Tensor]]
) -> Sequence[Tensor]:
    """Compute one layer of an LSTM with a projection; the module's docstring says how."""
    import torch

    hidden, cell = states
    token = torch.arange(x.shape[0], device=x.device)[:, None]
    results = []
    for index, each in enumerate(weights):
        inner, recurrent, *biases, projection = each
        gates = torch.nn.functional.linear(x, inner, biases[0] + biases[1] if biases else None)  # (T,B,4H)
        last = x.shape[0] - 1 if lengths is None else lengths[None] - 1
        first = token == (last if index else 0)
        gates = gates + first[:, :, None].to(x.dtype) * torch.nn.functional.linear(hidden[index], recurrent)
        size = cell.shape[-1]
        own = [torch.eye(4 * size, dtype=x.dtype), recurrent @ projection]
        nothing = torch.zeros_like(cell[index : index + 1])
        direction = "reverse" if index else "forward"
        y, h, c = _layer(kind, gates, lengths, [nothing, cell[index : index + 1]], [own], direction)
        results.append((torch.nn.functional.linear(y, projection), torch.nn.functional.linear(h, projection), c))
    if len(results) == 1:
        return results[0]
    ys, hs, cs = zip(*results, strict=True)
    return torch.cat(ys, dim=-1), torch.cat(hs), torch.cat(cs)


def _pack(name: str, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Lengths]:
    """Stand for torch._pack_padded_sequence: the tokens (T,B,...) stay padded."""
    tokens = x.transpose(0, 1) if batch_first else x
    if tokens.shape[1] != lengths.shape[0]:
        raise ValueError(f"{lengths.shape[0]} lengths of {tokens.shape[1]} sequences")
    return tokens, Lengths(lengths, tokens.shape[0], tokens.shape[1])


def _pad(
    name: str, data: Tensor, lengths: Lengths, batch_first: bool, value: float, total: Any
) -> tuple[Tensor, Tensor]:
    """Stand for torch._pad_packed_sequence: the value stands beyond the lengths, and beyond the longest is nothing."""
    import torch

    token = torch.arange(data.shape[0], device=data.device)
    beyond = token[:, None] >= lengths.tensor
    padded = data.masked_fill(beyond.reshape(*beyond.shape, *[1] * (data.dim() - 2)), value)
    if isinstance(total, _Longest):
        longest = lengths.tensor.max().item()
        torch._check(longest >= 1)  # type: ignore[no-untyped-call]
        torch._check(longest <= data.shape[0])  # type: ignore[no-untyped-call]
        padded = padded[:longest]
    elif total is not lengths.time and total != lengths.time:
        padded = torch.nn.functional.pad(padded, (0, 0) * (data.dim() - 1) + (0, total - lengths.time), value=value)
    return padded.transpose(0, 1) if batch_first else padded, lengths.tensor


_SUBSTITUTES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("gru", "lstm", "rnn_tanh", "rnn_relu"), _layers),
    "_pack_padded_sequence": _pack,
    "_pad_packed_sequence": _pad,
}


@functools.cache
def _register() -> Any:
    """Tell PyTorch the operators of one layer, which are traced and never run; return their library."""
    import torch

    library: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
    head = "(Tensor x, Tensor? lengths, Tensor initial"
    library.define(f"gru{head}, Tensor[] weights, str direction) -> (Tensor, Tensor)")
    library.define(f"rnn{head}, Tensor[] weights, str direction, str activation) -> (Tensor, Tensor)")
    library.define(f"lstm{head}, Tensor cell, Tensor[] weights, str direction) -> (Tensor, Tensor, Tensor)")

    def shapes(x: Tensor, lengths: Tensor | None, initial: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        width = initial.shape[0] * initial.shape[2]
        states = [initial, *(item for item in rest[:1] if isinstance(item, torch.Tensor))]
        # A result may not be an argument itself.
        return (x.new_empty(x.shape[0], x.shape[1], width), *(state.new_empty(state.shape) for state in states))

    for name in ("gru", "rnn", "lstm"):
        torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=library)
    return library


def recurrent_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how torch's ONNX exporter writes the operators, as `custom_translation_table` takes it."""
    import torch

    _register()
    own = getattr(torch.ops, NAMESPACE)

    def gru(x: Any, lengths: Any, initial: Any, weights: Any, direction: str) -> Any:
        # PyTorch multiplies by the recurrent weight before it resets.
        return _written("GRU", x, lengths, [initial], weights, direction, linear_before_reset=1)

    def rnn(x: Any, lengths: Any, initial: Any, weights: Any, direction: str, activation: str) -> Any:
        activations = [activation] * (2 if direction == "bidirectional" else 1)
        return _written("RNN", x, lengths, [initial], weights, direction, activations=activations)

    def lstm(x: Any, lengths: Any, initial: Any, cell: Any, weights: Any, direction: str) -> Any:
        return _written("LSTM", x, lengths, [initial, cell], weights, direction)

    return {own.gru.default: gru, own.rnn.default: rnn, own.lstm.default: lstm}


def _written(
    kind: str, x: Any, lengths: Any, states: Sequence[Any], weights: Sequence[Any], direction: str, **attributes: Any
) -> Any:
    """Record one layer: x (T,B,I) -> results (T,B,D*H) and the final states (D,B,H)."""
    from onnxscript import opset18 as op

    directions = 2 if direction == "bidirectional" else 1
    each = len(weights) // directions
    size = int(weights[1].shape[-1])
    order = _GATES[kind]

    def reordered(weight: Any) -> Any:
        """Return a weight (G*H,...) as (1,G*H,...) with ONNX's order of the gates."""
        rest = [int(dim) for dim in weight.shape[1:]]
        if len(order) == 1:
            return op.Unsqueeze(weight, [0])
        gates = op.Gather(op.Reshape(weight, [len(order), size, *rest]), list(order), axis=0)
        return op.Reshape(gates, [1, len(order) * size, *rest])

    def stacked(parts: list[Any], axis: int = 0) -> Any:
        return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)

    matrices = [stacked([reordered(weights[d * each + index]) for d in range(directions)]) for index in range(2)]
    bias = None
    if each == 4:
        pairs = [[reordered(weights[d * each + index]) for index in (2, 3)] for d in range(directions)]
        bias = stacked([stacked(pair, axis=1) for pair in pairs])
    counts = None if lengths is None else op.Cast(lengths, to=6)
    results = getattr(op, kind)(
        x, *matrices, bias, counts, *states, direction=direction, hidden_size=size, **attributes
    )
    if directions == 1:
        y = op.Squeeze(results[0], [1])
    else:
        y = op.Reshape(op.Transpose(results[0], perm=[0, 2, 1, 3]), [0, 0, directions * size])
    return (y, *results[1 : 1 + len(states)])
