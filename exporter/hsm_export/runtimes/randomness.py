"""Where a model draws random numbers: such a model is no reference, and nobody can be held to it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..onnx_model.nodes import graphs_of, nodes_of, subgraphs
from .operator_calls import operators_called_by

if TYPE_CHECKING:
    import onnx

_DRAWS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)
# Of doubles, relative to the largest number: what threads may change in the order of a sum, but no draw is so small.
SAME = 1e-9


def random_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that draw random numbers, Dropout in training mode among them, as `name (operator)`."""
    found = []
    for body in (model.graph, *model.functions):
        nodes = list(nodes_of(body.node))
        constants = _constants(body, nodes)
        found += [f"{node.name or node.output[0]} ({node.op_type})" for node in nodes if _draws(node, constants)]
    return found


def _constants(body: onnx.GraphProto | onnx.FunctionProto, nodes: Iterable[onnx.NodeProto]) -> dict[str, Any]:
    """Return the constants of a body and of the graphs inside it, as attributes of `Constant` and tensors, by name."""
    inner = [graph for node in body.node for graph in subgraphs(node)]
    graphs = [nested for graph in inner for nested in graphs_of(graph)]
    weights = [item for graph in (body, *graphs) for item in getattr(graph, "initializer", ())]
    made = {name: node.attribute[0] for node in nodes if node.op_type == "Constant" for name in node.output}
    return {**{item.name: item for item in weights}, **made}


def _draws(node: onnx.NodeProto, constants: Mapping[str, Any]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return node.op_type in _DRAWS
    return _is_true(constants.get(node.input[2]))


def _is_true(constant: Any) -> bool:
    from onnx import AttributeProto, helper, numpy_helper

    if isinstance(constant, AttributeProto):
        constant = helper.get_attribute_value(constant)
    return bool(
        constant is not None and (constant if isinstance(constant, int) else numpy_helper.to_array(constant).any())
    )


@contextlib.contextmanager
def watch_random() -> Iterator[list[str]]:
    """Collect the lines of Python, outside of PyTorch, that make PyTorch draw random numbers inside the block."""
    import torch

    inside = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    found: list[str] = []

    def watched(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if torch.Tag.nondeterministic_seeded in operator.tags:
            frames = [item for item in traceback.extract_stack() if not item.filename.startswith(inside)]
            if frames:
                found.append(f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}")
        return operator(*arguments, **options)

    with operators_called_by(watched):
        yield found
