"""Where a model draws random numbers: such a model is no reference, and nobody can be held to it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import numpy_helper

from ..onnx_model.nodes import graphs_of, nodes_of

if TYPE_CHECKING:
    import onnx

_DRAWS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)
# Of doubles, relative to the largest number: what threads may change in the order of a sum, but no draw is so small.
SAME = 1e-9


def random_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that draw random numbers, Dropout in training mode among them, as `name (operator)`."""
    nodes = [*nodes_of(model.graph.node), *(node for body in model.functions for node in nodes_of(body.node))]
    constants = {item.name: item for graph in graphs_of(model.graph) for item in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"}
    return [f"{node.name or node.output[0]} ({node.op_type})" for node in nodes if _draws(node, constants)]


def _draws(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return node.op_type in _DRAWS
    training = constants.get(node.input[2])
    return training is not None and bool(numpy_helper.to_array(training).any())


@contextlib.contextmanager
def watch_random() -> Iterator[list[str]]:
    """Collect the lines of Python, outside of PyTorch, that make PyTorch draw random numbers inside the block."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    inside = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    found: list[str] = []

    class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.Tag.nondeterministic_seeded in func.tags:
                frames = [item for item in traceback.extract_stack() if not item.filename.startswith(inside)]
                if frames:
                    found.append(f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}")
            return func(*args, **(kwargs or {}))

    with Watcher():  # type: ignore[no-untyped-call]
        yield found
