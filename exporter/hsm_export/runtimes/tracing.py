"""Make the results of every mixer operator visible, to find the first one that departs.

The n-th node of an operator in the graph is the n-th call of an operator in PyTorch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from hsm_operators import find
from hsm_operators.registry import find_torch

from .operator_calls import operators_called_by

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TracedNode:
    """A mixer operator in a graph.

    Attributes:
        name: the node's name.
        operator: its type.
        outputs: names of the graph outputs that hold its results in float32.
    """

    name: str
    operator: str
    outputs: tuple[str, ...]


def trace(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[TracedNode, ...]]:
    """Return a copy of a model that also outputs the results of its mixer operators, and those in graph order."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    traced = []
    for index, node in enumerate(model.graph.node):
        if find(node.domain, node.op_type) is None:
            continue
        name = node.name or f"{node.op_type}_{index}"
        outputs = tuple(f"{name}.traced_{position}" for position in range(len(node.output)))
        traced.append(TracedNode(name, node.op_type, outputs))
        for result, exposed in zip(node.output, outputs, strict=True):
            changed.graph.node.append(helper.make_node("Cast", [result], [exposed], name=exposed, to=TensorProto.FLOAT))
            changed.graph.output.append(helper.make_tensor_value_info(exposed, TensorProto.FLOAT, None))
    return changed, tuple(traced)


@contextlib.contextmanager
def watch_operators(on_call: Callable[[Sequence[Any], list[torch.Tensor]], None]) -> Iterator[None]:
    """Report every call of an operator that PyTorch makes inside the block: its arguments and its results."""

    def watched(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = operator(*arguments, **options)
        if find_torch(operator) is not None:
            on_call(arguments, [result] if not isinstance(result, (tuple, list)) else list(result))
        return result

    with operators_called_by(watched):
        yield


@contextlib.contextmanager
def record_operators() -> Iterator[list[list[torch.Tensor]]]:
    """Collect the results of every operator that PyTorch calls inside the block, in call order."""
    calls: list[list[torch.Tensor]] = []
    with watch_operators(lambda arguments, results: calls.append(results)):
        yield calls
