"""What a file may claim: tensors as large as their data, and functions that expand to a bounded graph.

Everything is counted before anything is allocated or expanded: a file of 2 kB can ask for terabytes and for hours.
"""

from __future__ import annotations

import graphlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..dtypes import BY_ONNX
from .nodes import nodes_of, subgraphs

if TYPE_CHECKING:
    import onnx

# Nodes after all functions are expanded. The largest files of ours have some ten thousand.
MOST_NODES = 500_000
# Functions that call each other: native code follows the calls on its stack.
MOST_CALLS = 100

Function = tuple[str, str, str]
# What holds the types of a type's parts.
_PARTS = {"sequence_type": "elem_type", "optional_type": "elem_type", "map_type": "value_type"}


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a file: weights, constants in nodes, those of inner graphs and functions, sparse ones."""
    yield from _weights(model.graph)
    for nodes in (model.graph.node, *(body.node for body in model.functions)):
        for node in nodes_of(nodes):
            for graph in subgraphs(node):
                yield from _weights(graph)
            for attribute in node.attribute:
                yield from _constants(attribute)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _constants(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    yield from attribute.tensors
    if attribute.HasField("t"):
        yield attribute.t
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for item in (*sparse, *attribute.sparse_tensors):
        yield from (item.values, item.indices)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes that a tensor's shape and type ask for, 0 for text and for unknown types."""
    kind = BY_ONNX.get(tensor.data_type)
    return -(-math.prod(tensor.dims) * kind.bits // 8) if kind else 0


def tensor_problem(tensor: onnx.TensorProto) -> str | None:
    """Return why a tensor contradicts itself: "has 8 bytes, its shape [1099511627776] needs 8.0 TiB"; None if not.

    Data outside the file is not looked at.
    """
    kind = BY_ONNX.get(tensor.data_type)
    if kind is None:
        return f"has the element type {tensor.data_type}, which ONNX does not define"
    shape = list(tensor.dims)
    if any(size < 0 for size in shape):
        return f"has the negative size {min(shape)}"
    if tensor.data_location == tensor.EXTERNAL:
        return None
    if tensor.HasField("raw_data"):
        held, needed = len(tensor.raw_data), tensor_bytes(tensor)
        if kind.name == "string":
            return "holds text as raw bytes"
        return None if held == needed else f"has {held} bytes, its shape {shape} needs {readable(needed)}"
    needed = _stored_elements(tensor, kind.bits)
    held = max(
        len(data)
        for data in (
            tensor.float_data, tensor.int32_data, tensor.int64_data,
            tensor.double_data, tensor.uint64_data, tensor.string_data,
        )
    )  # fmt: skip
    return None if held == needed else f"has {held} numbers, its shape {shape} needs {needed}"


def values_of(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield every description of a value: of inputs, outputs and others, in all graphs and functions."""
    inner = (graph for node in nodes_of(model.graph.node) for graph in subgraphs(node))
    for graph in (model.graph, *inner):
        yield from (*graph.input, *graph.output, *graph.value_info)
    for body in model.functions:
        yield from body.value_info


def value_problem(model: onnx.ModelProto) -> str | None:
    """Return why an input, output or other described value contradicts the format; None where none does."""
    for value in values_of(model):
        kind = _unknown_type(value.type)
        if kind:
            return f"the value {value.name} has the element type {kind}, which ONNX does not define"
    return None


def _unknown_type(of: onnx.TypeProto) -> int:
    """Return an element type that ONNX does not define, 0 where there is none."""
    kind = of.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        element = int(getattr(of, kind).elem_type)
        return 0 if element in BY_ONNX else element
    return _unknown_type(getattr(getattr(of, kind), _PARTS[kind])) if kind in _PARTS else 0


def call_problem(model: onnx.ModelProto) -> str | None:
    """Return which node gives its function more than that takes; None where none does."""
    bodies = {_key(function): function for function in model.functions}
    for nodes in (model.graph.node, *(body.node for body in model.functions)) if bodies else ():
        for node in nodes_of(nodes):
            body = bodies.get(_called(node))
            if body and (len(node.input) > len(body.input) or len(node.output) > len(body.output)):
                return (
                    f"node {node.name or node.op_type} has {len(node.input)} inputs and {len(node.output)} outputs, "
                    f"its function {node.domain}::{node.op_type} {len(body.input)} and {len(body.output)}"
                )
    return None


def _stored_elements(tensor: onnx.TensorProto, bits: int) -> int:
    """Return how many entries the lists of a tensor hold: complex numbers take two, small ones share one."""
    count = int(math.prod(tensor.dims))
    if tensor.data_type in (tensor.COMPLEX64, tensor.COMPLEX128):
        return 2 * count
    return -(-count * bits // 8) if 0 < bits < 8 else count


def readable(size: int) -> str:
    """Return a number of bytes in words: "12 bytes", "3.5 GiB"."""
    if size < 1024:
        return f"{size} bytes"
    power = min(int(math.log2(size)) // 10, 6)
    return f"{size / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power - 1]}"


def expansion_problem(model: onnx.ModelProto) -> str | None:
    """Return why the functions of a file cannot be expanded: a circle, or too many nodes or calls; None if they can."""
    bodies = {_key(function): list(nodes_of(function.node)) for function in model.functions}
    calls = {key: Counter(name for name in map(_called, body) if name in bodies) for key, body in bodies.items()}
    nodes = dict[Function, int]()
    depth = dict[Function, int]()
    try:
        for key in graphlib.TopologicalSorter(calls).static_order():
            nodes[key] = len(bodies[key]) + sum(count * nodes[name] for name, count in calls[key].items())
            depth[key] = 1 + max((depth[name] for name in calls[key]), default=0)
    except graphlib.CycleError as error:
        circle = ", ".join(sorted({f"{domain}::{name}" for domain, name, _ in error.args[1]}))
        return f"its functions call each other in a circle: {circle}"
    own = [_called(node) for node in nodes_of(model.graph.node)]
    total = len(own) + sum(nodes.get(name, 0) for name in own)
    if bodies and total > MOST_NODES:
        return f"its functions expand to {_magnitude(total)} nodes; more than {MOST_NODES:,} are not read"
    deepest = max(depth.values(), default=0)
    if deepest > MOST_CALLS:
        return f"its functions call each other {deepest} deep; more than {MOST_CALLS} are not read"
    return None


def _magnitude(count: int) -> str:
    return f"{count:,}" if count < 10**12 else f"more than 10**{int(math.log10(count))}"


def _key(function: onnx.FunctionProto) -> Function:
    return function.domain, function.name, function.overload


def _called(node: onnx.NodeProto) -> Function:
    return node.domain, node.op_type, node.overload
