"""Which nodes ONNX Runtime joins: its own optimised graph, held against the graph that it was given."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .session import DEFAULT, SessionSettings, cpu_session

if TYPE_CHECKING:
    import onnx


# Attention and its masks take some twenty to thirty nodes.
_MOST = 64


@dataclass(frozen=True)
class Fusion:
    """One node of the optimised graph that does the work of several.

    Attributes:
        operator: what it is, with its domain where that is not ONNX's own, such as "com.microsoft.BiasGelu".
        name: its name in the optimised graph.
        nodes: names of the nodes that it replaces, in the order of the graph.
        operators: what these are.
    """

    operator: str
    name: str
    nodes: tuple[str, ...]
    operators: tuple[str, ...]

    @property
    def text(self) -> str:
        """The fusion in words: "com.microsoft.BiasGelu for Add, Gelu"."""
        counted = Counter(self.operators)
        parts = (f"{count} {operator}" if count > 1 else operator for operator, count in counted.items())
        return f"{self.operator} for {', '.join(parts)}"


def fusions(
    model: onnx.ModelProto, folder: Path, *, kernels: Path | None = None, settings: SessionSettings = DEFAULT
) -> tuple[Fusion, ...]:
    """Return what ONNX Runtime makes of a graph's nodes, in the order of its optimised graph.

    Args:
        model: the graph, its functions inlined, every node named; external data is not loaded.
        folder: the directory that its external data is relative to.
        kernels: the custom-op library whose kernels run the nodes of other domains.
        settings: how ONNX Runtime prepares the graph.

    Returns:
        Nodes that replace two others or more. Constants that were folded are none, nor are nodes before which tensors
        were only given other names: none of ONNX Runtime's own operators does the work of so many.

    Raises:
        Exception: ONNX Runtime refuses the model; its exceptions have no common base.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="hsm-fusion-") as scratch:
        path = Path(scratch) / "optimised.onnx"
        cpu_session(model, folder, kernels=kernels, settings=settings, optimised=path)
        optimised = onnx.load(path, load_external_data=False)
    given = {output: node for node in model.graph.node for output in node.output if output}
    places = {id(node): place for place, node in enumerate(model.graph.node)}
    return tuple(_fusions(optimised.graph, given, places))


def _fusions(
    graph: onnx.GraphProto, given: Mapping[str, onnx.NodeProto], places: Mapping[int, int]
) -> Iterator[Fusion]:
    for node in graph.node:
        behind = _between(node, given)
        if not 2 <= len(behind) <= _MOST:
            continue
        behind.sort(key=lambda item: places[id(item)])
        names = tuple(item.name for item in behind)
        yield Fusion(_operator(node), node.name, names, tuple(map(_operator, behind)))


def _between(node: onnx.NodeProto, given: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the given nodes between the inputs and the outputs of a node, constants left out."""
    inputs = set(node.input)
    found: dict[int, onnx.NodeProto] = {}
    waiting = [given[name] for name in node.output if name in given]
    while waiting:
        item = waiting.pop()
        if id(item) in found or item.op_type == "Constant":
            continue
        found[id(item)] = item
        waiting += [given[name] for name in item.input if name in given and name not in inputs]
    return list(found.values())


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
