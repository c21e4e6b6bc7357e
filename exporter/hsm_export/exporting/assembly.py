"""From traced functions to function bodies: a loop over tokens around a step, casts at the borders, plain names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsm_operators.operator import PLUGIN_ATTRIBUTES, Operator, Port
from hsm_operators.registry import maths_of
from hsm_operators.sequence import Steps

from ..errors import BadInputError
from ..onnx_model.simplification import simplify
from .derivation import Call, Traceable, Traced

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Body:
    """A derived body.

    Attributes:
        operator: whose.
        traced: what it was made from; says which values it holds.
        graph: the whole operator in float32; inputs and outputs are the operator's.
    """

    operator: Operator
    traced: Traced
    graph: ir.Graph

    def serves(self, call: Call) -> bool:
        """Say whether the body is right for another call."""
        if not self.traced.serves(call):
            return False
        try:
            _traceable(self.operator, call).verify(self.traced)
        except BadInputError:
            return False
        return True


def trace(operator: Operator, call: Call) -> Traced:
    """Trace the maths of an operator, or of its step, with the attributes and sizes of one call.

    Raises:
        BadInputError: nobody gave the operator's maths, or it cannot be traced.
    """
    return _traceable(operator, call).trace()


def assemble(operator: Operator, traced: Traced) -> Body:
    """Make a body of what was traced; operators that it called are inlined by now. The traced graph is used up.

    Raises:
        BadInputError: the steps cannot become a loop.
    """
    steps = _steps(operator)
    simplify(traced.model, set())
    graph = traced.model.graph
    if steps is not None:
        graph = _loop(operator, steps, graph, traced.open)
    return Body(operator, traced, _with_casts(operator, _with_attributes(graph, traced.open)))


def function_of(body: Body, name: str, opset_version: int) -> ir.Function:
    """Return a body as a function of that name."""
    import onnx_ir as ir

    from .cleaning import name_nodes, strip

    operator, graph = body.operator, body.graph
    _constants_as_nodes(graph)
    graph.opset_imports.clear()
    graph.opset_imports[""] = opset_version
    graph.name = name
    name_nodes(graph)
    strip(graph)
    graph.doc_string = operator.description
    names = (*(attribute.name for attribute in operator.attributes), *PLUGIN_ATTRIBUTES)
    attributes = [ir.Attr(attribute, ir.AttributeType.UNDEFINED, None) for attribute in names]
    return ir.Function(operator.domain, name, graph=graph, attributes=attributes)


def _steps(operator: Operator) -> Steps | None:
    """Return the step that a body is made from; a whole-sequence function goes before it."""
    maths = maths_of(operator)
    return maths.function if maths is not None and isinstance(maths.function, Steps) else None


def _traceable(operator: Operator, call: Call) -> Traceable:
    maths = maths_of(operator)
    if maths is None:
        raise BadInputError(
            f"{operator.qualified_name} has neither a body nor a function to derive it from",
            "register it with its function, or with body= in ONNX's text format",
        )
    steps = _steps(operator)
    if steps is None:
        return Traceable(operator, maths.function, operator.inputs, call)
    ports = [_of_one_token(operator.port(name), steps.time) for name in steps.parameters]
    return Traceable(operator, _checked_step(steps), ports, call)


def _of_one_token(port: Port, time: str) -> Port:
    return Port(port.name, port.type, tuple(name for name in port.shape if name != time), rows=port.rows)


def _checked_step(steps: Steps) -> Callable[..., Any]:
    @functools.wraps(steps.step)
    def step(*tensors: Any, **attributes: Any) -> tuple[Any, ...]:
        return tuple(steps.named(steps.step(*tensors, **attributes)).values())

    return step


def _with_attributes(graph: ir.Graph, names: Sequence[str]) -> ir.Graph:
    """Replace the inputs that open attributes are by constants that refer to the node's attributes."""
    import onnx_ir as ir

    for name in reversed(names):
        value = graph.inputs.pop()
        reference = ir.RefAttr("value_int", name, ir.AttributeType.INT)
        constant = ir.Node("", "Constant", [], attributes=[reference])
        constant.outputs[0].dtype, constant.outputs[0].shape = ir.DataType.INT64, ir.Shape([])
        value.replace_all_uses_with(constant.outputs[0])
        _insert_first(graph, [constant])
    return graph


def _insert_first(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    if len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)


def _with_casts(operator: Operator, graph: ir.Graph) -> ir.Graph:
    """Compute in float32: cast the inputs of type T, and give the outputs of type T the type of the first of them."""
    import onnx_ir as ir

    like: ir.Value | None = None
    for port, value in zip(operator.inputs, graph.inputs, strict=True):
        value.name = port.name
        if port.type != "T":
            continue
        like = like or value
        cast = ir.node("Cast", [], attributes={"to": ir.DataType.FLOAT})
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, value.shape
        value.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
        cast.resize_inputs(1)
        cast.replace_input_with(0, value)
        _insert_first(graph, [cast])
        value.type, value.shape = None, None
    for index, port in enumerate(operator.outputs):
        value = graph.outputs[index]
        node = None
        if port.type == "T" and like is not None:
            node = ir.node("CastLike", [value, like])
        elif value.is_graph_input() or value in list(graph.outputs)[:index]:
            node = ir.node("Identity", [value])  # an output may be no input, and no other output
        if node is not None:
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        graph.outputs[index].name = port.name
    _drop_unused(graph)
    return graph


def _drop_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        outputs = set(graph.outputs)
        if not any(value.uses() or value in outputs for value in node.outputs):
            graph.remove(node, safe=True)


def _constants_as_nodes(graph: ir.Graph) -> None:
    """Functions have no initialisers: constants become nodes, as tensors."""
    import onnx_ir as ir

    nodes = []
    for inner in (graph, *graph.subgraphs()):
        for value in list(inner.initializers.values()):
            assert value.const_value is not None
            value.const_value.name = None
            constant = ir.node("Constant", [], attributes={"value": value.const_value})
            constant.outputs[0].type, constant.outputs[0].shape = value.type, value.shape
            value.replace_all_uses_with(constant.outputs[0], replace_graph_outputs=True)
            nodes.append(constant)
        inner.initializers.clear()
    _insert_first(graph, nodes)


def _loop(operator: Operator, steps: Steps, step: ir.Graph, attributes: Sequence[str]) -> ir.Graph:
    from .loop import loop_over_tokens

    return loop_over_tokens(operator, steps, step, attributes)
