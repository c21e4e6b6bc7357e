"""Walks over nodes: a graph, the graphs inside its nodes, and the bodies of functions; and whose nodes they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's operators that a model uses; 0 where it says none."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes, the outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs_of(inner)


def nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, each followed by those of the graphs inside it."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from nodes_of(graph.node)


def reads_of(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the tensors that a node reads, those that its graphs take from outside included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        yield from _captures(graph)


def _captures(graph: onnx.GraphProto) -> Iterator[str]:
    own = {value.name for value in graph.input} | {item.name for item in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in reads_of(node) if name not in own)
    yield from (value.name for value in graph.output if value.name not in own)
