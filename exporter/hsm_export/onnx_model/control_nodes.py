"""If, Loop and Scan: which nodes they are, and what they do in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .nodes import opset_of, subgraphs

# From this version of ONNX on Scan has no batch of its own.
_SCAN = 9


@dataclass(frozen=True)
class Watched:
    """A model that says what its control flow does.

    Attributes:
        model: the model, with further outputs.
        outputs: of each control node of its main graph, by its position, the output that says what it does.
    """

    model: onnx.ModelProto
    outputs: dict[int, str]


def watched(model: onnx.ModelProto, finished: Sequence[str] = ()) -> Watched:
    """Return a copy of a model whose control nodes say what they do: nothing is added where there are none.

    Args:
        model: the model; every node of its main graph has a name.
        finished: names of control nodes that are left as they are.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    added, outputs = list[onnx.NodeProto](), dict[int, str]()
    for index, node in enumerate(graph.node):
        if node.name in finished or not is_control(node, model):
            continue
        name = f"{node.name}/taken"
        if node.op_type == "If":
            added.append(helper.make_node("Identity", [node.input[0]], [name], name=name))
            kind = TensorProto.BOOL
        elif node.op_type == "Scan":
            added.append(helper.make_node("Shape", [node.input[states_of(node)]], [name], name=name))
            kind = TensorProto.INT64
        else:
            _count_iterations(node, name)
            kind = TensorProto.INT64
        graph.output.append(helper.make_tensor_value_info(name, kind, None))
        outputs[index] = name
    graph.node.extend(added)
    return Watched(changed, outputs)


def ran(node: onnx.NodeProto, seen: np.ndarray[Any, Any]) -> str:
    """Return the name of the graph of a control node that ran; nothing where none did.

    Args:
        node: the node.
        seen: its watched output.
    """
    if node.op_type == "If":
        return "then_branch" if bool(seen.reshape(-1)[0]) else "else_branch"
    count = len(seen) if node.op_type == "Loop" else int(seen[ints_of(node, "scan_input_axes", 1)[0]])
    return "body" if count else ""


def has_control_flow(model: onnx.ModelProto) -> bool:
    """Return whether nodes of the main graph hold graphs that can be taken apart."""
    return any(is_control(node, model) for node in model.graph.node)


def is_control(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Return whether a node holds graphs that can be taken apart."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("If", "Loop", "Scan"):
        return False
    if any(graph.sparse_initializer for graph in subgraphs(node)):
        return False
    return node.op_type != "Scan" or opset_of(model) >= _SCAN


def graph_of(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    """Return the graph in an attribute of a node."""
    (found,) = (attribute.g for attribute in node.attribute if attribute.name == name)
    assert isinstance(found, onnx.GraphProto)
    return found


def states_of(node: onnx.NodeProto) -> int:
    """Return how many of a Scan's inputs are carried from step to step."""
    return len(node.input) - sum(int(item.i) for item in node.attribute if item.name == "num_scan_inputs")


def ints_of(node: onnx.NodeProto, name: str, count: int) -> list[int]:
    """Return the numbers in an attribute of a node; so many zeros where it has none."""
    given = next((list(item.ints) for item in node.attribute if item.name == name), [])
    return given or [0] * count


def _count_iterations(node: onnx.NodeProto, name: str) -> None:
    """Let a Loop say which iterations it makes."""
    body = graph_of(node, "body")
    number = body.input[0]
    number.type.tensor_type.elem_type = TensorProto.INT64
    inner = f"{name}/number"
    body.node.append(helper.make_node("Identity", [number.name], [inner], name=inner))
    body.output.append(helper.make_tensor_value_info(inner, TensorProto.INT64, []))
    unread = [f"{name}/unread[{place}]" for place in range(len(node.output), len(body.output) - 2)]
    node.output.extend([*unread, name])
