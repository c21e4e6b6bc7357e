"""The dynamic dimensions of a graph's inputs: what counts their tokens, and inputs of other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hsm_operators import find

from ..formats.tensor import InputSpec
from .inputs import LENGTH, TraceInput

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

_PASSED_ON = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "TopK", "Gather")
_RECURRENT = ("GRU", "LSTM", "RNN")
# Sizes to check with: primes, so that no two dimensions are equal and none is a multiple of what the code works for.
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


def counted(model: ir.Model) -> dict[str, str | int]:
    """Return which inputs hold numbers of valid tokens: name -> the dimension whose tokens they count.

    An operator's specification says it: an input of one row of integers that are at most one of its sizes. So does that
    of ONNX's recurrent layers, whose rows may have been sorted by length before.
    """
    found: dict[str, str | int] = {}
    for node in model.graph.all_nodes():
        if node.op_type in _RECURRENT and len(node.inputs) > 4 and (name := _origin(node.inputs[4])) is not None:
            shape = None if node.inputs[0] is None else node.inputs[0].shape
            size = None if shape is None else shape[0] if isinstance(shape[0], int) else shape[0].value
            if isinstance(size, int) or (size and size.isidentifier()):
                found.setdefault(name, size)
        operator = find(node.domain, node.op_type)
        if operator is None:
            continue
        values = dict(zip(operator.inputs, node.inputs, strict=False))
        for port, value in values.items():
            name = _origin(value)
            if port.rows is None or name is None:
                continue
            sizes = [
                other.shape[list(slot.shape).index(port.rows.most)]
                for slot, other in values.items()
                if port.rows.most in slot.shape and other is not None and other.shape is not None
            ]
            plain = [size if isinstance(size, int) else size.value for size in sizes]
            known = next((size for size in plain if isinstance(size, int) or (size and size.isidentifier())), None)
            if known is not None:
                found.setdefault(name, known)
    return found


def indexed(model: ir.Model) -> dict[str, str]:
    """Return which inputs hold indices: name -> the dynamic dimension whose elements they name."""
    found: dict[str, str] = {}
    for node in model.graph.all_nodes():
        if node.op_type not in ("Gather", "GatherElements") or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        size = node.inputs[0].shape[node.attributes.get_int("axis", 0)]
        value = node.inputs[1]
        while value is not None and (maker := value.producer()) is not None:
            value = maker.inputs[0] if maker.op_type in (*_PASSED_ON[:5], "Expand") else None
        symbol = None if isinstance(size, int) else size.value
        if value is not None and value.is_graph_input() and symbol and symbol.isidentifier():
            found.setdefault(value.name or "", symbol)
    return found


def tied(model: ir.Model) -> dict[str, str]:
    """Return which of the tracer's symbols are one size because an operator's signature gives them one name.

    So are those of rows and of the numbers that they are sorted by.

    Returns:
        Symbol -> the symbol that stands for it; only where that is another one.
    """
    stands: dict[str, str] = {}

    def root(symbol: str) -> str:
        while symbol in stands:
            symbol = stands[symbol]
        return symbol

    for node in model.graph.all_nodes():
        if (rows := _sorted(node)) is not None and root(rows[0]) != root(rows[1]):
            stands[root(rows[0])] = root(rows[1])
        operator = find(node.domain, node.op_type)
        found: dict[str, str] = {}
        for port, value in zip(() if operator is None else operator.inputs, node.inputs, strict=False):
            for name, size in zip(
                port.shape, () if value is None or value.shape is None else value.shape, strict=False
            ):
                symbol = None if isinstance(size, int) else size.value
                if symbol and symbol.isidentifier():
                    first = found.setdefault(name, symbol)
                    if root(symbol) != root(first):
                        stands[root(symbol)] = root(first)
    return {symbol: root(symbol) for symbol in stands}


def _sorted(node: ir.Node) -> tuple[str, str] | None:
    """Return the symbols of the rows that a node brings into the order of numbers, and of these numbers."""
    rows, index = (*node.inputs, None, None)[:2] if node.op_type == "Gather" else (None, None)
    while index is not None and (maker := index.producer()) is not None and maker.op_type in _PASSED_ON[:5]:
        index = maker.inputs[0]
    maker = None if index is None else index.producer()
    if index is None or maker is None or maker.op_type != "TopK" or index.index() != 1:
        return None
    keys, axis = maker.inputs[0], node.attributes.get_int("axis", 0)
    if rows is None or rows.shape is None or keys is None or keys.shape is None or keys.shape.rank() != 1:
        return None
    sizes = rows.shape[axis], keys.shape[0]
    symbols = [None if isinstance(size, int) else size.value for size in sizes]
    if not all(symbol and symbol.isidentifier() for symbol in symbols):
        return None
    return str(symbols[0]), str(symbols[1])


def _origin(value: ir.Value | None) -> str | None:
    """Return the graph's input (B,) that a value is, None where it is something else."""
    while value is not None and (node := value.producer()) is not None:
        value = node.inputs[0] if node.op_type in _PASSED_ON else None
    if value is None or not value.is_graph_input() or value.shape is None or value.shape.rank() != 1:
        return None
    return value.name


def fixed_lengths(arguments: Sequence[TraceInput], inputs: Sequence[InputSpec]) -> tuple[str, ...]:
    """Say which inputs take one length only, because the module's code works with no other.

    Args:
        arguments: what was wished for.
        inputs: what the graph has.
    """
    found = []
    for argument, spec in zip(arguments, inputs, strict=True):
        dims = len(spec.shape)
        matrix = argument.example.is_floating_point() and dims == 2  # its columns may well be features
        named = any(isinstance(size, str) for size in spec.shape[1:])
        if argument.free.get(1) == LENGTH and not (matrix or named):
            where = "dimension 1" if not argument.example.is_floating_point() else f"dimensions 1 to {dims - 1}"
            found.append(f"{spec.name}: {where} fixed at {spec.example_shape[1:]}, the module works with no other size")
        if 0 in argument.dynamic and not argument.chosen and isinstance(spec.shape[0], int):
            found.append(f"{spec.name}: dimension 0 fixed at {spec.shape[0]}, the module works with no other size")
    return tuple(found)


def sizes_of(inputs: Sequence[InputSpec]) -> dict[str, int]:
    """Return the dynamic dimensions and their sizes in the example."""
    return {
        name: size
        for spec in inputs
        for name, size in zip(spec.shape, spec.example_shape, strict=True)
        if isinstance(name, str)
    }


def other_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return another size for each dimension: different primes, each as near to the old size as possible."""
    chosen: dict[str, int] = {}
    for name, size in sizes.items():
        taken = {size, *chosen.values()}
        free = [prime for prime in _PRIMES if prime not in taken] or [max(taken) + 1]
        chosen[name] = min(free, key=lambda prime: (abs(prime - size), prime))
    return chosen


def resized(arguments: Sequence[TraceInput], inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> list[Tensor]:
    """Return the examples with other sizes in their dynamic dimensions, by repetition or truncation.

    Args:
        arguments: what the module was traced with.
        inputs: the graph's inputs that they became.
        sizes: sizes of dimensions by name; all others stay as they are.
    """
    import torch

    examples = []
    for argument, spec in zip(arguments, inputs, strict=True):
        example = argument.example
        for dim, name in enumerate(spec.shape):
            if isinstance(name, str):
                size = sizes.get(name, example.shape[dim])
                example = example.index_select(dim, torch.arange(size) % example.shape[dim])
        if spec.counts is not None:
            most = spec.counts if isinstance(spec.counts, int) else sizes.get(spec.counts)
            example = example.clamp(max=most) if most is not None else example
        bound = spec.bounded(sizes_of(inputs) | dict(sizes))
        if spec.indexes is not None and bound.high is not None:
            example = example.clamp(-1 - bound.high, bound.high)
        examples.append(example)
    return examples
