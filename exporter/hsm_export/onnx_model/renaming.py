"""Copies of nodes and weights under other names, as where a graph is put into another one."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from .nodes import subgraphs


def renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def rewired(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    """Return a copy of an inner node with the names that things have outside, in the graphs inside it too."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{prefix}{node.name}"
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names[name] if name else "" for name in node.output]
    for inner in subgraphs(copy):
        _rewire_reads(inner, names)
    return copy


def _rewire_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename what an inner graph takes from outside."""
    own = {value.name for value in graph.input} | {item.name for item in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    seen = {name: outer for name, outer in names.items() if name not in own}
    for node in graph.node:
        node.input[:] = [seen.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            _rewire_reads(inner, seen)
    for value in graph.output:
        value.name = seen.get(value.name, value.name)
