"""Make the choice of experts visible and forcible in a graph.

A top-k choice is discontinuous: two right implementations may choose different experts where two logits nearly tie,
and then differ by far more than rounding. So the logits of every operator that chooses become a graph output, and a
Boolean mask becomes a graph input that restricts the choice: logits' = Where(mask, logits, -inf).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hsm_operators import Operator

from ..errors import BadInputError
from ..onnx_model.file_operators import FileOperators
from ..onnx_model.inlined_mixers import InlinedMixer, inlined_mixers

LOGITS_SUFFIX = ".routing_logits"
_NO_CHOICE = "hsm_export.minus_infinity"


@dataclass(frozen=True)
class RoutedNode:
    """A node that chooses.

    Attributes:
        name: the node's name.
        k: how many of the logits on the last axis it chooses.
        rank: number of dimensions of its logits: rows, tokens, and what else there is.
    """

    name: str
    k: int
    rank: int = 4

    @property
    def logits(self) -> str:
        """Name of the graph output that holds its logits, (B,T,H,E) for experts."""
        return f"{self.name}{LOGITS_SUFFIX}"

    @property
    def mask(self) -> str:
        """Name of the graph input that restricts its choice: bool, broadcastable to the logits."""
        return f"{self.name}.routing_mask"

    def selection(self, logits: NDArray[Any]) -> NDArray[np.bool_]:
        """Return the choice that logits lead to: the k largest, ties to the lower index."""
        order = np.argsort(-logits, axis=-1, kind="stable")[..., : self.k]
        chosen = np.zeros(logits.shape, dtype=bool)
        np.put_along_axis(chosen, order, True, axis=-1)
        return chosen

    def free_mask(self) -> NDArray[np.bool_]:
        """Return the mask that restricts nothing."""
        return np.ones((1,) * self.rank, dtype=bool)


def instrument(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[RoutedNode, ...]]:
    """Give every operator that chooses a logits output and a mask input.

    Args:
        model: the file; left as it is.

    Returns:
        The instrumented copy (the model itself when nothing in it chooses) and the operators in graph order.
    """
    inlined = [mixer for mixer in inlined_mixers(model) if mixer.routing is not None]
    if inlined:
        return _instrument_inlined(model, inlined)
    operators = FileOperators(model)
    if not any(operator.routing for _, operator in operators.nodes(model.graph)):
        return model, ()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    routed: list[RoutedNode] = []
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(changed.graph.node):
        operator = operators.find(node)
        if operator is not None and operator.routing is not None:
            name = node.name or f"{node.op_type}_{index}"
            active = _attribute(node, operator.routing.active)
            routed.append(RoutedNode(name, active, len(operator.port(operator.routing.logits).shape)))
            nodes += _expose(changed.graph, node, logits_index(operator), routed[-1])
        nodes.append(node)
    _replace_nodes(changed.graph, nodes)
    return changed, tuple(routed)


def _instrument_inlined(
    model: onnx.ModelProto, mixers: Sequence[InlinedMixer]
) -> tuple[onnx.ModelProto, tuple[RoutedNode, ...]]:
    """Do the same where bodies stand in the place of the operators."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    routed, before = [], dict[int, list[onnx.NodeProto]]()
    for mixer in mixers:
        choice = mixer.routing
        assert choice is not None
        item = RoutedNode(mixer.name, choice.active, choice.rank)
        readers = [
            (place, node)
            for place, node in enumerate(changed.graph.node)
            if mixer.owns(node) and choice.logits in node.input
        ]
        if not readers:
            raise BadInputError(
                f"{mixer.name} reads no {choice.logits}, from which the file says it chooses", "export the file again"
            )
        masked = f"{item.name}.masked_logits"
        before.setdefault(readers[0][0], []).extend(_mask(changed.graph, choice.logits, masked, item))
        for _, node in readers:
            node.input[:] = [masked if name == choice.logits else name for name in node.input]
        routed.append(item)
    nodes = [item for place, node in enumerate(changed.graph.node) for item in (*before.get(place, ()), node)]
    _replace_nodes(changed.graph, nodes)
    return changed, tuple(routed)


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.append(helper.make_tensor(_NO_CHOICE, TensorProto.FLOAT, [], [-np.inf]))


def logits_index(operator: Operator) -> int:
    """Return which input of an operator that chooses holds the logits."""
    assert operator.routing is not None
    return [port.name for port in operator.inputs].index(operator.routing.logits)


def _expose(graph: onnx.GraphProto, node: onnx.NodeProto, index: int, routed: RoutedNode) -> list[onnx.NodeProto]:
    """Rewire one operator's logits input; return the nodes that go before it."""
    logits, masked = node.input[index], f"{routed.name}.masked_logits"
    node.input[index] = masked
    return _mask(graph, logits, masked, routed)


def _mask(graph: onnx.GraphProto, logits: str, masked: str, routed: RoutedNode) -> list[onnx.NodeProto]:
    """Return the nodes that make logits an output and mask them, and declare what they need of the graph."""
    sizes = [None] * routed.rank
    graph.input.append(helper.make_tensor_value_info(routed.mask, TensorProto.BOOL, sizes))
    graph.output.append(helper.make_tensor_value_info(routed.logits, TensorProto.FLOAT, sizes))
    return [
        helper.make_node("Identity", [logits], [routed.logits], name=f"{routed.logits}.identity"),
        helper.make_node("Where", [routed.mask, logits, _NO_CHOICE], [masked], name=f"{routed.mask}.where"),
    ]


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == name)
