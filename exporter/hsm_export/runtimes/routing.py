"""Make the choice of experts visible and forcible in a graph.

A top-k choice is discontinuous: two right implementations may choose different experts where two logits nearly tie,
and then differ by far more than rounding. So every expert operator's logits become a graph output, and a Boolean mask
becomes a graph input that restricts the choice: logits' = Where(mask, logits, -inf).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

EXPERT_OPERATORS = ("ExpertMatMul", "ExpertMatMulSum")
LOGITS_SUFFIX = ".routing_logits"
_NO_CHOICE = "hsm_export.minus_infinity"


@dataclass(frozen=True)
class RoutedNode:
    """An expert operator of a graph.

    Attributes:
        name: the node's name.
        k: experts that it uses per token and head.
    """

    name: str
    k: int

    @property
    def logits(self) -> str:
        """Name of the graph output that holds its logits (B,T,H,E)."""
        return f"{self.name}{LOGITS_SUFFIX}"

    @property
    def mask(self) -> str:
        """Name of the graph input that restricts its choice: bool, broadcastable to (B,T,H,E)."""
        return f"{self.name}.routing_mask"

    def selection(self, logits: NDArray[Any]) -> NDArray[np.bool_]:
        """Return the choice that logits (B,T,H,E) lead to: the k largest, ties to the lower index."""
        order = np.argsort(-logits, axis=-1, kind="stable")[..., : self.k]
        chosen = np.zeros(logits.shape, dtype=bool)
        np.put_along_axis(chosen, order, True, axis=-1)
        return chosen


def free_mask() -> NDArray[np.bool_]:
    """Return the mask that restricts nothing."""
    return np.ones((1, 1, 1, 1), dtype=bool)


def instrument(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[RoutedNode, ...]]:
    """Give every expert operator of a graph a logits output and a mask input.

    Args:
        model: the file; left as it is.

    Returns:
        The instrumented copy (the model itself when it has no expert operators) and the operators in graph order.
    """
    if not any(_is_routed(node) for node in model.graph.node):
        return model, ()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    routed: list[RoutedNode] = []
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(changed.graph.node):
        if _is_routed(node):
            routed.append(RoutedNode(node.name or f"{node.op_type}_{index}", _attribute(node, "k")))
            nodes += _expose(changed.graph, node, routed[-1])
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del changed.graph.node[:]
    changed.graph.node.extend(kept)
    changed.graph.initializer.append(helper.make_tensor(_NO_CHOICE, TensorProto.FLOAT, [], [-np.inf]))
    return changed, tuple(routed)


def _expose(graph: onnx.GraphProto, node: onnx.NodeProto, routed: RoutedNode) -> list[onnx.NodeProto]:
    """Rewire one operator's logits input; return the nodes that go before it."""
    logits, masked = node.input[1], f"{routed.name}.masked_logits"
    node.input[1] = masked
    graph.input.append(helper.make_tensor_value_info(routed.mask, TensorProto.BOOL, [None] * 4))
    graph.output.append(helper.make_tensor_value_info(routed.logits, TensorProto.FLOAT, [None] * 4))
    return [
        helper.make_node("Identity", [logits], [routed.logits], name=f"{routed.logits}.identity"),
        helper.make_node("Where", [routed.mask, logits, _NO_CHOICE], [masked], name=f"{routed.mask}.where"),
    ]


def _is_routed(node: onnx.NodeProto) -> bool:
    return node.domain == "hsm" and node.op_type in EXPERT_OPERATORS


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == name)
