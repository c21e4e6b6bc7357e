"""Which operators of two graphs are the same ones: by name first, by what surrounds them otherwise."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import numpy_helper

from ...dtypes import is_float

_SMALL = 64  # elements of a constant that says what an operator does: a shape, axes, a split
_ROUNDS = 64

Key = Hashable


@dataclass(frozen=True)
class Graph:
    """What matching needs of a graph or of a function's body.

    Attributes:
        nodes: its operators, in an order in which they can run.
        inputs, outputs: names, without initialisers.
        weights: initialisers by name.
    """

    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[str]
    outputs: Sequence[str]
    weights: Mapping[str, onnx.TensorProto] = field(default_factory=dict)


@dataclass
class Matching:
    """Which parts of an old graph are which of a new one.

    Attributes:
        nodes: index in the old graph -> index in the new one.
        tensors: name in the old graph -> name in the new one: inputs, weights, results of matched nodes.
    """

    nodes: dict[int, int]
    tensors: dict[str, str]


def match(old: Graph, new: Graph) -> Matching:
    """Match two graphs.

    Nodes of the same name and operator are the same. Of the others, those are that compute the same from the graph's
    inputs, or to which the same is done up to its outputs; then those between matched neighbours; then any alike; and
    at last those of the same name (without one: of the same result), whatever they do.
    """
    sides = (_Side(old), _Side(new))
    pairs = _Pairs(*sides)
    pairs.add(lambda side: side.names)
    pairs.add(lambda side: list(zip(side.forward, side.backward, strict=True)))
    pairs.add(lambda side: side.forward)
    pairs.add(lambda side: side.backward)
    for strict in (True, False):
        pairs.add_between_neighbours(strict)
    pairs.add(lambda side: side.local, in_order=True)
    pairs.add(lambda side: [node.name or next(iter(node.output), None) for node in side.graph.nodes])
    return Matching(pairs.nodes, _tensors(old, new, pairs.nodes))


def moved(nodes: Mapping[int, int]) -> set[int]:
    """Return the old indices of the fewest nodes that, taken out, leave the others in their old order."""
    order = sorted(nodes)
    tails: list[int] = []
    last: list[int] = []
    before: dict[int, int | None] = {}
    for index in order:
        place = bisect_left(tails, nodes[index])
        before[index] = last[place - 1] if place else None
        if place == len(tails):
            tails.append(nodes[index])
            last.append(index)
        else:
            tails[place], last[place] = nodes[index], index
    kept = set()
    current = last[-1] if last else None
    while current is not None:
        kept.add(current)
        current = before[current]
    return set(order) - kept


def attribute_key(attribute: onnx.AttributeProto) -> Key:
    """Return a value that is equal for attributes of the same meaning, whatever the names inside."""
    kinds = onnx.AttributeProto
    if attribute.ref_attr_name:
        return ("reference", attribute.ref_attr_name)
    if attribute.type == kinds.TENSOR:
        return tensor_key(attribute.t)
    if attribute.type == kinds.GRAPH:
        return canonical(attribute.g, {})
    if attribute.type in (kinds.FLOAT, kinds.INT, kinds.STRING, kinds.FLOATS, kinds.INTS, kinds.STRINGS):
        value = onnx.helper.get_attribute_value(attribute)
        return (attribute.type, value if isinstance(value, (int, float, bytes)) else tuple(value))
    return bytes(attribute.SerializeToString(deterministic=True))


def tensor_key(tensor: onnx.TensorProto) -> Key:
    """Return a value that is equal for tensors of the same type, shape and numbers; for those inside the file."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return (tensor.data_type, tuple(tensor.dims), tensor.SerializeToString(deterministic=True))
    if tensor.data_type == onnx.TensorProto.STRING:
        return (tensor.data_type, tuple(tensor.dims), tuple(tensor.string_data))
    numbers = numpy_helper.to_array(tensor).tobytes()
    return (tensor.data_type, tuple(tensor.dims), hashlib.blake2b(numbers, digest_size=16).digest())


def canonical(graph: onnx.GraphProto, outer: Mapping[str, str]) -> Key:
    """Return a value that is equal for subgraphs that compute the same in the same order, whatever their names.

    Args:
        graph: a branch or a loop's body.
        outer: new names of tensors from outside.
    """
    numbers: dict[str, int] = {}
    for value in (*graph.input, *graph.initializer):
        numbers.setdefault(value.name, len(numbers))
    nodes = []
    for node in graph.node:
        inputs = tuple(numbers.get(name, outer.get(name, name)) for name in node.input)
        for name in node.output:
            numbers.setdefault(name, len(numbers))
        scope = {**outer, **{name: str(number) for name, number in numbers.items()}}
        inner = tuple(
            (item.name, canonical(item.g, scope) if item.type == onnx.AttributeProto.GRAPH else attribute_key(item))
            for item in sorted(node.attribute, key=lambda item: item.name)
        )
        nodes.append((node.domain, node.op_type, inputs, inner, len(node.output)))
    outputs = tuple(numbers.get(value.name, outer.get(value.name, value.name)) for value in graph.output)
    return (len(graph.input), tuple(map(tensor_key, graph.initializer)), tuple(nodes), outputs)


class _Side:
    """Keys of every node of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = {name: index for index, node in enumerate(graph.nodes) for name in node.output if name}
        self.consumers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(graph.nodes):
            for name in node.input:
                if name:
                    self.consumers[name].append(index)
        self.operators: list[Key] = [(node.domain, node.op_type) for node in graph.nodes]
        self.names: list[Key] = [(node.name, node.domain, node.op_type) if node.name else None for node in graph.nodes]
        self._weights = {name: _weight_key(tensor) for name, tensor in graph.weights.items()}
        self.local: list[Key] = [self._local(node) for node in graph.nodes]
        self.forward: list[Key] = self._forward()
        self.backward: list[Key] = self._backward()

    def neighbours(self, index: int) -> tuple[list[int | None], list[int]]:
        """Return the producers of a node's inputs (None where it is none of the graph), and its consumers."""
        node = self.graph.nodes[index]
        before = [self.producers.get(name) for name in node.input]
        return before, [consumer for name in node.output for consumer in self.consumers.get(name, ())]

    def _local(self, node: onnx.NodeProto) -> Key:
        attributes = tuple(sorted((item.name, hash(attribute_key(item))) for item in node.attribute))
        inputs = tuple(hash(self._weights.get(name)) if name else 0 for name in node.input)
        return hash((node.domain, node.op_type, attributes, inputs, len(node.output)))

    def _forward(self) -> list[Key]:
        known: dict[str, int] = {name: hash(("input", index)) for index, name in enumerate(self.graph.inputs)}
        known |= {name: hash(key) for name, key in self._weights.items()}
        keys: list[Key] = []
        for local, node in zip(self.local, self.graph.nodes, strict=True):
            key = hash((local, tuple(known.get(name, hash(name)) for name in node.input)))
            known |= {name: hash((key, index)) for index, name in enumerate(node.output)}
            keys.append(key)
        return keys

    def _backward(self) -> list[Key]:
        uses: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(self.graph.outputs):
            uses[name].append(hash(("output", index)))
        keys: list[Key] = []
        for local, node in zip(reversed(self.local), reversed(self.graph.nodes), strict=True):
            key = hash((local, tuple(tuple(sorted(uses.get(name, ()))) for name in node.output)))
            for index, name in enumerate(node.input):
                uses[name].append(hash((key, index)))
            keys.append(key)
        return keys[::-1]


class _Pairs:
    """Nodes of two graphs that were found to be the same."""

    def __init__(self, old: _Side, new: _Side) -> None:
        self._old, self._new = old, new
        self.nodes: dict[int, int] = {}
        self._taken: set[int] = set()

    def add(self, keys: Callable[[_Side], Sequence[Key]], in_order: bool = False) -> None:
        """Match nodes of the same key; None is no key.

        Args:
            keys: returns the key of every node of a side.
            in_order: also where there are more of a key on one side: the first with the first, and so on.
        """
        old = _grouped(keys(self._old), self.nodes)
        new = _grouped(keys(self._new), self._taken)
        for key, indices in old.items():
            others = new.get(key, [])
            if key is not None and (in_order or len(indices) == len(others)):
                self._pair(zip(indices, others, strict=False))

    def add_between_neighbours(self, strict: bool) -> None:
        """Match nodes whose neighbours are matched with each other, again and again.

        Args:
            strict: attributes and weights must be alike; else the operator alone.
        """
        for _ in range(_ROUNDS):
            before = len(self.nodes)
            inverse = {new: old for old, new in self.nodes.items()}
            here = {old: old for old in self.nodes}
            for downward in (True, False):
                olds = self._surrounded(self._old, here, strict, downward)
                news = self._surrounded(self._new, inverse, strict, downward)
                free = _grouped(news, self._taken)
                for key, indices in _grouped(olds, self.nodes).items():
                    others = free.get(key, [])
                    if key is not None and len(indices) == len(others) == 1:
                        self._pair(zip(indices, others, strict=True))
            if len(self.nodes) == before:
                return

    def _surrounded(self, side: _Side, matched: Mapping[int, int], strict: bool, downward: bool) -> list[Key]:
        """Return a key of every node: what it does, and which matched nodes are above (or below) it."""
        keys: list[Key] = []
        for index, operator in enumerate(side.local if strict else side.operators):
            above, below = side.neighbours(index)
            chosen: Sequence[int | None] = above if downward else below
            known = [matched.get(item, -1) if item is not None else -2 for item in chosen]
            surroundings = tuple(known if downward else sorted(known))
            keys.append((operator, surroundings) if any(item >= 0 for item in known) else None)
        return keys

    def _pair(self, pairs: Iterable[tuple[int, int]]) -> None:
        for old, new in pairs:
            if old not in self.nodes and new not in self._taken:
                self.nodes[old] = new
                self._taken.add(new)


def _grouped(keys: Sequence[Key], taken: Mapping[int, int] | set[int]) -> dict[Key, list[int]]:
    groups: dict[Key, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        if index not in taken:
            groups[key].append(index)
    return groups


def _weight_key(tensor: onnx.TensorProto) -> Key:
    """Return what a weight says about its operator: type and shape, and the numbers of a short list of integers."""
    sizes = tuple(tensor.dims)
    count = 1
    for size in sizes:
        count *= size
    if count <= _SMALL and not is_float(tensor.data_type):
        return tensor_key(tensor)
    return (tensor.data_type, sizes)


def _tensors(old: Graph, new: Graph, nodes: Mapping[int, int]) -> dict[str, str]:
    """Return which tensors are the same ones: of the same name or place, or by the nodes that write or read them."""
    same = {name: name for name in old.inputs if name in set(new.inputs)}
    left_old = [name for name in old.inputs if name not in same]
    left_new = [name for name in new.inputs if name not in same]
    same |= dict(zip(left_old, left_new, strict=False))
    same |= {name: name for name in old.weights if name in new.weights}
    for index, other in nodes.items():
        before, after = old.nodes[index], new.nodes[other]
        same |= {a: b for a, b in zip(before.output, after.output, strict=False) if a and b}
        for a, b in zip(before.input, after.input, strict=False):
            if a in old.weights and b in new.weights and a not in new.weights and b not in old.weights:
                same.setdefault(a, b)
    return same
