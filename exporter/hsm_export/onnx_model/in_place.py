"""Which states a graph updates in place: where one buffer may be bound to `past` and `present` at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from hsm_operators import find

from .nodes import reads_of

if TYPE_CHECKING:
    import onnx

    from ..formats.state_spec import StateSpec

# Operators whose kernel in ONNX Runtime leaves what it need not change where it is, when input and output are one
# buffer: operator -> {index of the input: index of the output}.
_STANDARD = {"ScatterND": {0: 0}, "ScatterElements": {0: 0}}
# Operators whose output may be the very memory of their input.
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
_READ_NO_DATA = frozenset({"Shape", "Size"})


def updated_in_place(
    graph: onnx.GraphProto, spec: StateSpec, *, fused: Collection[str], standard: bool = True
) -> frozenset[str]:
    """Return the `past` names whose buffer may also be their `present`.

    That is safe when the node that makes the present reads the past itself, with a kernel that is known to work in
    place, and every other reader of the past comes before that node because the node needs its result. Function
    bodies promise nothing of the kind.

    Args:
        graph: the graph as the runtime gets it.
        spec: its states.
        fused: the domains whose operators run as fused kernels; their specifications say which states they update.
        standard: ONNX's own operators run as ONNX Runtime's kernels.
    """
    nodes = _Graph(graph, fused, standard)
    return frozenset(tensor.past for tensor in spec.tensors if nodes.carries(tensor.past, tensor.present))


class _Graph:
    """The nodes of a graph by what they read and write; nodes of inner graphs count as the node that holds them."""

    def __init__(self, graph: onnx.GraphProto, fused: Collection[str], standard: bool) -> None:
        self._fused = fused
        self._standard = standard
        self._nodes = list(graph.node)
        self._inputs = [set(reads_of(node)) for node in self._nodes]
        self._readers: dict[str, list[int]] = defaultdict(list)
        self._writer = {name: index for index, node in enumerate(self._nodes) for name in node.output}
        for index, names in enumerate(self._inputs):
            for name in names:
                self._readers[name].append(index)

    def carries(self, past: str, present: str) -> bool:
        """Return whether one buffer may hold `past` and then `present`."""
        writer = self._writer.get(present)
        if writer is None or not self._works_in_place(self._nodes[writer], past, present):
            return False
        return self._data_readers(past) - {writer} <= self._ancestors(writer)

    def _works_in_place(self, node: onnx.NodeProto, past: str, present: str) -> bool:
        pairs = self._pairs(node).items()
        return list(node.input).count(past) == 1 and any(
            node.input[source] == past and node.output[target] == present for source, target in pairs
        )

    def _pairs(self, node: onnx.NodeProto) -> Mapping[int, int]:
        """Return the inputs and outputs, by index, that may be one buffer."""
        if node.domain == "":
            return _STANDARD.get(node.op_type, {}) if self._standard else {}
        operator = find(node.domain, node.op_type) if node.domain in self._fused else None
        return operator.in_place if operator else {}

    def _data_readers(self, name: str) -> set[int]:
        """Return the nodes that read a tensor's memory, under this name or as a view of it."""
        found: set[int] = set()
        for index in self._readers[name]:
            node = self._nodes[index]
            if node.op_type in _READ_NO_DATA:
                continue
            found.add(index)
            if node.op_type in _VIEWS:
                found |= self._data_readers(node.output[0])
        return found

    def _ancestors(self, index: int) -> set[int]:
        """Return the nodes without whose results a node cannot run."""
        found: set[int] = set()
        waiting = [index]
        while waiting:
            for name in self._inputs[waiting.pop()]:
                source = self._writer.get(name)
                if source is not None and source not in found:
                    found.add(source)
                    waiting.append(source)
        return found
