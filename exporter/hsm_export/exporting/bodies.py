"""Function bodies of the operators that a graph uses: as their specifications write them, or derived from PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hsm_operators import find
from hsm_operators.operator import BOOL, FLOAT, INT64, IR_VERSION, OPSET_VERSION, Operator, Port

from ..dtypes import BY_PRECISION
from .assembly import Body, assemble, function_of, trace
from .derivation import Call

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


def add_bodies(model: ir.Model) -> None:
    """Append the function body of every operator that the graph uses.

    Where derived bodies of one operator hold different values of its attributes, each is a function of its own name,
    DecayMix__span3, and its nodes are renamed after it; a body that serves all nodes has the operator's plain name.

    Raises:
        BadInputError: a body cannot be derived.
    """
    import onnx_ir as ir

    model.functions.clear()
    used: dict[tuple[str, str], tuple[Operator, list[ir.Node]]] = {}
    for node in model.graph.all_nodes():
        operator = find(node.domain, node.op_type)
        if operator is not None:
            used.setdefault((operator.domain, operator.name), (operator, []))[1].append(node)
    opset = model.opset_imports[""]
    functions: list[ir.Function] = []
    for _, (operator, nodes) in sorted(used.items()):
        if operator.body:
            functions.append(ir.serde.deserialize_function(operator.function(opset)))
        else:
            functions += _derived(operator, nodes, opset)
    for function in functions:
        model.functions[function.identifier()] = function
    for domain in [domain for domain in model.opset_imports if find_domain(domain)]:
        del model.opset_imports[domain]
    for operator, _ in used.values():
        model.opset_imports[operator.domain] = operator.version


def one_node_model(
    operator: Operator,
    attributes: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    sizes: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Return a model that is one node of an operator, with its body.

    Args:
        operator: the operator.
        attributes: the values of all its attributes.
        precision: what T is: "fp32", "fp16" or "bf16".
        sizes: the dimensions that are fixed; the others are dynamic, under their names in the signature.

    Raises:
        BadInputError: the body cannot be derived.
    """
    import onnx_ir as ir

    low = ir.DataType(BY_PRECISION[precision].onnx)
    types = {"T": low, FLOAT: ir.DataType.FLOAT, INT64: ir.DataType.INT64, BOOL: ir.DataType.BOOL}

    def value(port: Port) -> ir.Value:
        shape = ir.Shape([(sizes or {}).get(name, name) for name in port.shape])
        return ir.Value(name=port.name, type=ir.TensorType(types[port.type]), shape=shape)

    inputs, outputs = list(map(value, operator.inputs)), list(map(value, operator.outputs))
    given = {name: int(v) if isinstance(v, bool) else v for name, v in (attributes or {}).items()}
    node = ir.node(
        operator.name,
        inputs,
        attributes={**given, **operator.plugin_attributes},
        domain=operator.domain,
        outputs=outputs,
        name=operator.name,
    )
    graph = ir.Graph(inputs, outputs, nodes=[node], opset_imports={"": OPSET_VERSION}, name=operator.name)
    model = ir.Model(graph, ir_version=IR_VERSION)
    add_bodies(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    return proto


def find_domain(domain: str) -> bool:
    """Say whether operators are registered under a domain."""
    from hsm_operators import operators

    return any(operator.domain == domain for operator in operators())


def _derived(operator: Operator, nodes: Sequence[ir.Node], opset: int) -> list[ir.Function]:
    """Return the bodies that the nodes of one operator need, and name the nodes after them."""
    calls = {node: _call(operator, node) for node in nodes}
    bodies: list[Body] = []
    chosen: list[tuple[Call, Body]] = []
    # Numbers of which a trace makes no special case come first: their body may serve the others too.
    for node in sorted(nodes, key=lambda node: _special(operator, calls[node])):
        call = calls[node]
        body = next((body for known, body in chosen if known == call), None)
        body = body or next((body for body in bodies if body.serves(call)), None)
        if body is None:
            traced = trace(operator, call)
            _inline_operators(traced.model)
            body = assemble(operator, traced)
            bodies.append(body)
        chosen.append((call, body))
    names = {id(body): operator.name + (body.traced.suffix if len(bodies) > 1 else "") for body in bodies}
    for node, call in calls.items():
        node.op_type = names[id(next(body for known, body in chosen if known == call))]
    functions = [function_of(body, names[id(body)], opset) for body in bodies]
    return sorted(functions, key=lambda function: function.name)


def _inline_operators(model: ir.Model) -> None:
    """Replace the operators that a function calls by their bodies: many runtimes know no functions inside functions."""
    import onnx_ir.passes.common as common

    if any(find(node.domain, node.op_type) is not None for node in model.graph.all_nodes()):
        add_bodies(model)
        common.InlinePass()(model)


def _special(operator: Operator, call: Call) -> int:
    """Return how many numbers of a call are 0, 1 or negative."""
    numbers = [attribute.name for attribute in operator.attributes if attribute.type == "int" and not attribute.is_flag]
    return sum(call.attributes[name] <= 1 for name in numbers)


def _call(operator: Operator, node: ir.Node) -> Call:
    """Return a node's attributes, and the sizes that its inputs have in every run."""
    attributes = {}
    for attribute in operator.attributes:
        value = node.attributes[attribute.name].value
        attributes[attribute.name] = bool(value) if attribute.is_flag else value
    sizes: dict[str, int] = {}
    for port, value in zip(operator.inputs, node.inputs, strict=True):
        if value is not None and value.shape is not None:
            for name, size in zip(port.shape, value.shape, strict=True):
                if isinstance(size, int):
                    sizes[name] = size
    return Call(attributes, sizes)
