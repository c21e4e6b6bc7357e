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


def random_nodes(model: onnx.ModelProto, modes: Mapping[str, bool] | None = None) -> list[str]:
    """Return the nodes that draw random numbers, Dropout in training mode among them, as `name (operator)`.

    Args:
        model: the graph.
        modes: which of `open_modes` a run switches on; None for none.
    """
    return [f"{node.name or node.output[0]} ({node.op_type})" for node, mode in _drawing(model) if _on(mode, modes)]


def open_modes(model: onnx.ModelProto) -> list[str]:
    """Return the tensors of the main graph that decide in each run whether a Dropout is in training mode."""
    known = {name for node in model.graph.node for name in node.output} | {item.name for item in model.graph.input}
    return list(dict.fromkeys(mode for _, mode in _drawing(model) if isinstance(mode, str) and mode in known))


def _drawing(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, bool | str]]:
    """Yield the nodes that may draw, and whether they do; the name of a tensor where that decides."""
    for body in (model.graph, *model.functions):
        nodes = list(nodes_of(body.node))
        constants = _constants(body, nodes)
        for node in nodes:
            if node.domain in ("", "ai.onnx") and (node.op_type in _DRAWS or node.op_type == "Dropout"):
                yield node, True if node.op_type in _DRAWS else _training(node, constants)


def _on(mode: bool | str, modes: Mapping[str, bool] | None) -> bool:
    return (modes or {}).get(mode, False) if isinstance(mode, str) else mode


def _constants(body: onnx.GraphProto | onnx.FunctionProto, nodes: Iterable[onnx.NodeProto]) -> dict[str, Any]:
    """Return the constants of a body and of the graphs inside it, as attributes of `Constant` and tensors, by name."""
    inner = [graph for node in body.node for graph in subgraphs(node)]
    graphs = [nested for graph in inner for nested in graphs_of(graph)]
    weights = [item for graph in (body, *graphs) for item in getattr(graph, "initializer", ())]
    made = {name: node.attribute[0] for node in nodes if node.op_type == "Constant" for name in node.output}
    return {**{item.name: item for item in weights}, **made}


def _training(node: onnx.NodeProto, constants: Mapping[str, Any]) -> bool | str:
    """Whether a Dropout drops anything, as far as constants say it; else the name of what decides."""
    _, ratio, mode = [*node.input, "", "", ""][:3]
    if not mode or (ratio in constants and not _is_true(constants[ratio])):
        return False
    return _is_true(constants[mode]) if mode in constants else mode


def _is_true(constant: Any) -> bool:
    from onnx import AttributeProto, helper, numpy_helper

    if isinstance(constant, AttributeProto):
        constant = helper.get_attribute_value(constant)
    return bool(constant if isinstance(constant, (int, float)) else numpy_helper.to_array(constant).any())


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
