"""Turn a graph into one of ONNX's own operators alone, for runtimes that know no functions and no loops.

Bodies take the place of their nodes, the causal ones without Scan; constants become initialisers, and weights lie as
products take them. The file says which mixers were where, so that choices of experts can still be watched and forced,
and each node bears the name of its mixer: `layers.0.mixer/q_norm`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hsm_operators import find

from .inlined_mixers import METADATA, SEPARATOR, InlinedMixer
from .stored_weights import store_transposed

if TYPE_CHECKING:
    import onnx_ir as ir

_CALL = "hsm_export.call"


def make_portable(model: ir.Model, weights: set[str]) -> tuple[InlinedMixer, ...]:
    """Inline all functions of a finished graph, in place, and write into its metadata what stood there.

    Args:
        model: a graph with its bodies.
        weights: names of the initialisers that are weights; those that are only transposed are stored so.

    Returns:
        The mixers, in the order of the graph.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as common

    from .simplification import simplify

    mixers = tuple(_mixer(node) for node in model.graph if node.op_identifier() in model.functions)
    for node in model.graph:
        if node.op_identifier() in model.functions:
            node.metadata_props[_CALL] = node.name or ""
    for key in list(model.functions):
        operator = find(key[0], key[1])
        if operator is not None and operator.loop_free_body:
            model.functions[key] = ir.serde.deserialize_function(
                operator.function(model.opset_imports[""], loop_free=True)
            )
    kept = {value.name for value in (*model.graph.outputs, *model.graph.inputs)}
    kept |= {name for mixer in mixers for name in (*mixer.inputs, *mixer.outputs)}
    common.InlinePass()(model)
    _name(model.graph, kept)
    for domain in set(model.opset_imports) - {node.domain for node in model.graph.all_nodes()} - {""}:
        del model.opset_imports[domain]
    _split_gemm(model.graph)
    store_transposed(model, weights, shared=True)
    simplify(model, weights)
    _constants_by_use(model.graph, weights)
    for node in model.graph.all_nodes():
        node.metadata_props.pop(_CALL, None)
        _forget_unknown_shapes(node)
    _require_logits(model, mixers)
    model.metadata_props[METADATA] = json.dumps([mixer.to_dict() for mixer in mixers])
    return mixers


def _require_logits(model: ir.Model, mixers: tuple[InlinedMixer, ...]) -> None:
    """Hold the simplified graph to the names of the values by which experts are chosen."""
    left = {value.name for node in model.graph for value in node.outputs} | {value.name for value in model.graph.inputs}
    lost = [mixer.name for mixer in mixers if mixer.routing is not None and mixer.routing.logits not in left]
    assert not lost, f"the routing logits of {lost} are gone"


def _mixer(node: ir.Node) -> InlinedMixer:
    import onnx_ir as ir

    numbers = (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT)
    attributes = {name: attr.value for name, attr in node.attributes.items() if attr.type in numbers}
    return InlinedMixer(
        name=node.name or "",
        operator=f"{node.domain}::{node.op_type}",
        inputs=tuple(value.name or "" if value is not None else "" for value in node.inputs),
        outputs=tuple(value.name or "" for value in node.outputs),
        attributes={name: list(value) if isinstance(value, tuple) else value for name, value in attributes.items()},
    )


def _name(graph: ir.Graph, kept: set[str | None]) -> None:
    """Put the name of its mixer before that of each node, and of each value that nothing outside knows."""
    taken: set[str] = {name for name in kept if name}
    for node in graph.all_nodes():
        call = node.metadata_props.get(_CALL)
        if call is None:
            continue
        node.name = _free(f"{call}{SEPARATOR}{_plain(node.name)}", taken)
        for value in node.outputs:
            if value.name not in kept:
                value.name = node.name if len(node.outputs) == 1 else _free(f"{call}{SEPARATOR}{value.name}", taken)


def _plain(name: str | None) -> str:
    """Return a name without the number by which an inliner told it from others."""
    text = name or "node"
    head, _, tail = text.rpartition("_")
    return head if head and tail.isdigit() else text


def _free(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def _split_gemm(graph: ir.Graph) -> None:
    """Put MatMul and Add in the place of Gemm: quantisers know the former alone, and tract has no Gemm in float16."""
    import onnx_ir as ir

    for node in list(graph):
        numbers = {name: attr.value for name, attr in node.attributes.items()}
        plain = node.domain == "" and node.op_type == "Gemm" and not numbers.get("transA")
        if not plain or numbers.get("alpha", 1.0) != 1.0 or numbers.get("beta", 1.0) != 1.0:
            continue
        left, right, *bias = (value for value in node.inputs if value is not None)
        made = []
        if numbers.get("transB"):
            made.append(ir.node("Transpose", [right], {"perm": [1, 0]}, name=f"{node.name}.Transpose"))
            right = made[-1].outputs[0]
            right.name = made[-1].name
        made.append(ir.node("MatMul", [left, right], name=f"{node.name}.MatMul"))
        if bias:
            made[-1].outputs[0].name = made[-1].name
            made.append(ir.node("Add", [made[-1].outputs[0], bias[0]], name=f"{node.name}.Add"))
        result, old = made[-1].outputs[0], node.outputs[0]
        result.type, result.shape = old.type, old.shape
        graph.insert_before(node, made)
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        result.name = old.name


def _forget_unknown_shapes(node: ir.Node) -> None:
    """Say nothing of a shape with sizes that nobody knows: optimisers take two of them for equal."""
    for value in node.outputs:
        if value.shape is not None and any(not isinstance(dim, int) and dim.value is None for dim in value.shape):
            value.shape = None
            if not value.is_graph_output():
                value.type = None


def _constants_by_use(graph: ir.Graph, weights: set[str]) -> None:
    """Name the constants that are no weights after the first node that reads them."""
    taken = set(graph.initializers)
    for node in graph.all_nodes():
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or value.name in weights or value.graph is not graph:
                continue
            if SEPARATOR in (value.name or "") or (value.name or "").startswith("constant_"):
                continue
            old = value.name or ""
            del graph.initializers[old]
            value.name = _free(f"{node.name}.input_{index}", taken)
            if value.const_value is not None:
                value.const_value.name = value.name
            graph.initializers.add(value)
