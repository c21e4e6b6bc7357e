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
    _store_transposed(model.graph, weights)
    simplify(model, weights)
    _constants_by_use(model.graph, weights)
    for node in model.graph.all_nodes():
        node.metadata_props.pop(_CALL, None)
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


def _store_transposed(graph: ir.Graph, weights: set[str]) -> None:
    """Store weights that are read through a Transpose in the order in which they are read, under `<name>.T`."""

    stored: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
        if weight is None or weight.name not in weights or weight.const_value is None:
            continue
        order = tuple(node.attributes.get_ints("perm") or reversed(range(len(weight.const_value.shape))))
        key = weight.name, order
        if key not in stored:
            stored[key] = _transposed(weight, order)
            graph.initializers.add(stored[key])
            weights.add(stored[key].name or "")
        node.outputs[0].replace_all_uses_with(stored[key])
        graph.remove(node, safe=True)
        if not weight.uses() and not weight.is_graph_output():
            del graph.initializers[weight.name]


def _transposed(weight: ir.Value, order: tuple[int, ...]) -> ir.Value:
    import numpy as np
    import onnx_ir as ir

    tensor = weight.const_value
    assert tensor is not None and weight.name is not None
    name = (
        f"{weight.name}.T"
        if order == tuple(reversed(range(len(order))))
        else f"{weight.name}.{''.join(map(str, order))}"
    )
    shape = ir.Shape([tensor.shape.numpy()[axis] for axis in order])

    def make() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(order)), dtype=tensor.dtype, name=name)

    lazy = ir.LazyTensor(make, dtype=tensor.dtype, shape=shape, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=lazy)


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
