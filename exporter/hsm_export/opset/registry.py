"""All operators by name, and what is done with them as a set."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from .causal_taylor_shift import CAUSAL_TAYLOR_SHIFT
from .expert_matmul import EXPERT_MATMUL, EXPERT_MATMUL_SUM
from .operator import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION, Operator
from .shift_mix import SHIFT_MIX, SHIFT_MIX_CACHED
from .taylor_shift import TAYLOR_SHIFT, TAYLOR_SHIFT_MASKED
from .token_shift import TOKEN_SHIFT, TOKEN_SHIFT_CACHED

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        TOKEN_SHIFT,
        TOKEN_SHIFT_CACHED,
        SHIFT_MIX,
        SHIFT_MIX_CACHED,
        TAYLOR_SHIFT,
        TAYLOR_SHIFT_MASKED,
        CAUSAL_TAYLOR_SHIFT,
        EXPERT_MATMUL,
        EXPERT_MATMUL_SUM,
    )
}


def make_node(
    name: str, inputs: list[str], outputs: list[str], node_name: str = "", **attributes: int | list[int]
) -> onnx.NodeProto:
    """Return a node of domain `hsm` that carries every attribute.

    Args:
        name: an operator of `OPERATORS`.
        inputs: names of all inputs.
        outputs: names of all outputs.
        node_name: the node's own name.
        **attributes: all of the operator's attributes.

    Raises:
        ValueError: an input, output or attribute is missing or unknown.
    """
    operator = OPERATORS[name]
    expected = {attribute.name for attribute in operator.attributes}
    if set(attributes) != expected:
        raise ValueError(f"{name} needs exactly the attributes {sorted(expected)}, got {sorted(attributes)}")
    if len(inputs) != len(operator.inputs) or len(outputs) != len(operator.outputs):
        raise ValueError(f"{name} needs {len(operator.inputs)} inputs and {len(operator.outputs)} outputs")
    node: onnx.NodeProto = onnx.helper.make_node(
        name,
        inputs,
        outputs,
        name=node_name,
        domain=DOMAIN,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def functions_for(model: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """Return the bodies of the `hsm` operators that a model uses, for the model's own opset version, sorted by name."""
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    used = {node.op_type for node in _nodes(model.graph) if node.domain == DOMAIN}
    return [OPERATORS[name].function(version) for name in sorted(used)]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every model-local function replaced by its nodes."""
    import onnx.inliner

    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    return inlined
