"""The network that a builder gets: every operator that has a plugin one, and every other one its function body."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_operators import DOMAIN, find

from ..dtypes import element_name
from ..onnx_model.nodes import nodes_of

if TYPE_CHECKING:
    import onnx


def operators_by_type(model: onnx.ModelProto, *, plugins: bool = False) -> dict[str, set[str]]:
    """Return the operators of a model by the element type of their first input.

    Args:
        model: the model.
        plugins: leave out what the `hsm` operators' bodies hold, which plugins compute.
    """
    import onnx
    import onnx_ir as ir

    from hsm_operators import inline

    inferred = onnx.shape_inference.infer_shapes(model if plugins else inline(model))
    found: dict[str, set[str]] = {}
    for node in ir.from_proto(inferred).graph.all_nodes():
        first = node.inputs[0] if node.inputs else None
        if first is not None and first.dtype is not None:
            found.setdefault(element_name(first.dtype.value), set()).add(node.op_type)
    return found


def network_bytes(path: Path, *, plugins: Collection[str]) -> bytes:
    """Return a model in the form that a builder gets, weights outside the file left there.

    Args:
        path: the ONNX file.
        plugins: the operators that there are plugins for, as `plugin_nodes` names them; all others are inlined.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    network: bytes = (strip_bodies(model, plugins) if plugins else inline_named(model)).SerializeToString()
    return network


def plugin_nodes(model: onnx.ModelProto, foreign: Collection[tuple[str, str]] = ()) -> dict[str, str]:
    """Return the operator of every node that has a plugin by the name that `strip_bodies` leaves it, in graph order.

    Args:
        model: the model.
        foreign: domains and names of operators of others that there are plugins for; ours say so themselves.
    """
    plugins = {_operator(*key) for key in foreign}
    own = {node.op_type for node in nodes_of(model.graph.node) if node.domain == DOMAIN}
    ours = {_operator(DOMAIN, name) for name in own if (known := find(DOMAIN, name)) is None or known.plugin}
    nodes = _with_plugin(model.graph, plugins | ours)
    return {_name(node, index): _operator(node.domain, node.op_type) for index, node in enumerate(nodes)}


def _operator(domain: str, name: str) -> str:
    """Return what plugin layers are called after: an operator's name, with its domain where that is not ours."""
    return name if domain == DOMAIN else f"{domain}::{name}"


def strip_bodies(model: onnx.ModelProto, plugins: Collection[str]) -> onnx.ModelProto:
    """Return the model without the bodies of the operators that have plugins, and every node of theirs named.

    TensorRT may prefer a body to a plugin, without a word. Without bodies the only way to build is with the plugins.
    Bodies of other operators are inlined: TensorRT keeps a single body of each name.
    """
    import onnx

    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.functions[:]
    stripped.functions.extend(f for f in model.functions if _operator(f.domain, f.name) not in plugins)
    for index, node in enumerate(_with_plugin(stripped.graph, plugins)):
        node.name = _name(node, index)
    return inline_named(stripped) if stripped.functions else stripped


def _name(node: onnx.NodeProto, index: int) -> str:
    return str(node.name) or f"{node.op_type}_{index}"


def _with_plugin(graph: onnx.GraphProto, plugins: Collection[str]) -> Iterator[onnx.NodeProto]:
    """Return the nodes of a graph, and of the graphs inside it, whose operators have plugins."""
    return (node for node in nodes_of(graph.node) if node.domain and _operator(node.domain, node.op_type) in plugins)


def inline_named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its function bodies inlined and a name for each node of theirs.

    A body's nodes have no names, or such as "MatMul_2" that inlining makes unique. Named after their call, such as
    `layers.3.mixer.scores`, they make the parser's errors and the engine's layer names readable.

    Args:
        model: a model whose calls of functions are named.
    """
    from hsm_operators import inline

    functions = {(function.domain, function.name) for function in model.functions}
    callers = {
        output: node.name
        for node in model.graph.node
        if (node.domain, node.op_type) in functions
        for output in node.output
    }
    inlined = inline(model)
    own = {node.name for node in model.graph.node}
    caller = ""
    # A body's last node makes a result of its call, so walking backwards tells the call of each node before it.
    for node in reversed(inlined.graph.node):
        caller = next((callers[output] for output in node.output if output in callers), caller)
        if not node.name and node.output:
            node.name = f"{caller}.{node.output[0].partition('__')[0]}"
        elif caller and node.name not in own:
            node.name = f"{caller}.{node.name.partition('__')[0]}"
    return inlined
