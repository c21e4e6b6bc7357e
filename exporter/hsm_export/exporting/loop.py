"""A traced step as the body of a Scan over the tokens.

Every input and output of the Scan's body has a type and a rank: ONNX Runtime up to 1.23 fails without. Only what needs
the states is in the loop: what a step computes from weights alone stands before it, and so does what it computes from
its tokens element by element or by a matrix, which is done for all tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hsm_operators.operator import BOOL, INT64, Operator, Port
from hsm_operators.sequence import Steps

if TYPE_CHECKING:
    import onnx_ir as ir


def loop_over_tokens(operator: Operator, steps: Steps, step: ir.Graph, attributes: Sequence[str]) -> ir.Graph:
    """Return the graph of a whole sequence in float32.

    Args:
        operator: its inputs and outputs are the graph's, followed by the attributes.
        steps: which of them are states, tokens and lengths.
        step: the traced step: states, tokens and other inputs in its order, then the attributes; it is taken apart.
        attributes: names of the last inputs.
    """
    return _Loop(operator, steps, step, attributes).graph()


class _Loop:
    """Builds the graph; `nodes` are those outside the Scan's body."""

    def __init__(self, operator: Operator, steps: Steps, step: ir.Graph, attributes: Sequence[str]) -> None:
        import onnx_ir as ir

        self._operator = operator
        self._steps = steps
        self._step = step
        self._inputs = {port.name: _value(port.name, port, len(port.shape)) for port in operator.inputs}
        for name in attributes:
            self._inputs[name] = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
        self._given = dict(zip((*steps.parameters, *attributes), step.inputs, strict=True))
        self._tokens = [name for name in steps.parameters if self._axis(name) is not None]
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._keeps: dict[tuple[int, ...], ir.Value] = {}

    def graph(self) -> ir.Graph:
        import onnx_ir as ir

        valid = self._valid() if self._steps.lengths else None
        for name, value in self._given.items():
            if name not in self._tokens and name not in self._steps.pasts:
                value.replace_all_uses_with(self._inputs[name], replace_graph_outputs=True)
        inside = self._hoist()
        together = AllTokens({self._given[name]: self._scanned(name, valid) for name in self._tokens}, self.nodes)
        inside = together.take(inside, {self._given[name] for name in self._steps.pasts})
        entered = together.enter(inside, self._step.outputs)
        body = self._body(inside, list(entered), masked=valid is not None)
        scanned = list(entered.values())
        if valid is not None:
            scanned.append(_op(self.nodes, "Transpose", valid, perm=[1, 0]))
        pasts = [self._inputs[name] for name in self._steps.pasts]
        loop = ir.node(
            "Scan",
            [*pasts, *scanned],
            attributes={"body": body, "num_scan_inputs": len(scanned)},
            num_outputs=len(pasts) + len(self._steps.results),
        )
        self.nodes.append(loop)
        found: dict[str, ir.Value] = dict(zip(self._steps.pasts, loop.outputs, strict=False))
        outputs = {state.present: found[state.past] for state in self._operator.states}
        for port, value in zip(self._steps.results, loop.outputs[len(pasts) :], strict=True):
            axis, rank = port.shape.index(self._steps.time), len(port.shape)
            order = list(range(1, rank))
            order.insert(axis, 0)
            outputs[port.name] = _op(self.nodes, "Transpose", value, perm=order) if axis else value
        for port in self._operator.outputs:
            outputs[port.name].type = _value("", port, 0).type
        results = [outputs[port.name] for port in self._operator.outputs]
        return ir.Graph(list(self._inputs.values()), results, nodes=self.nodes, name=self._operator.name)

    def _axis(self, name: str) -> int | None:
        return self._steps.axis(self._operator.port(name))

    def _valid(self) -> ir.Value:
        """Return which tokens are valid, bool (B,T)."""
        name = self._tokens[0]
        axis = self._axis(name) or 0
        size = _op(self.nodes, "Shape", self._inputs[name], start=axis, end=axis + 1)
        count = _op(self.nodes, "Squeeze", size)
        token = _op(self.nodes, "Range", self._constant(0), count, self._constant(1))
        lengths = _op(self.nodes, "Unsqueeze", self._inputs[self._steps.lengths], self._constant([1]))
        return _op(self.nodes, "Less", token, lengths)

    def _hoist(self) -> list[ir.Node]:
        """Put constants and what depends on weights alone before the loop; return the nodes that stay inside."""
        outside = set(self._inputs.values())
        for value in list(self._step.initializers.values()):
            assert value.const_value is not None
            value.const_value.name = None
            constant = _op(self.nodes, "Constant", value=value.const_value)
            constant.type, constant.shape = value.type, value.shape
            value.replace_all_uses_with(constant, replace_graph_outputs=True)
            outside.add(constant)
        self._step.initializers.clear()
        inside = []
        for node in list(self._step):
            self._step.remove(node)
            if all(value is None or value in outside for value in node.inputs) and not _has_graph(node):
                self.nodes.append(node)
                outside.update(node.outputs)
            else:
                inside.append(node)
        return inside

    def _body(self, inside: list[ir.Node], tokens: list[ir.Value], *, masked: bool) -> ir.Graph:
        """Return the graph of one token: states and what the token brings in, states and outputs out."""
        import onnx_ir as ir

        pasts = [self._given[name] for name in self._steps.pasts]
        for name in self._steps.pasts:
            self._given[name].name = f"{name}.before"
            _typed(self._given[name], self._operator.port(name), len(self._operator.port(name).shape))
        results = list(self._step.outputs)
        self._step.inputs.clear()
        self._step.outputs.clear()
        active = None
        if masked:
            active = _value("active", Port("active", BOOL, ("B",)), 1)
            tokens.append(active)
        outputs = []
        for index, result in enumerate(results):
            if index < len(pasts):
                port = self._operator.port(self._steps.pasts[index])
                outputs.append(self._advanced(inside, port, pasts[index], result, active))
            else:
                port = self._steps.results[index - len(pasts)]
                outputs.append(_typed(_op(inside, "Identity", result), port, len(port.shape) - 1))
        for node in inside:
            for value in node.outputs:
                if value not in outputs:
                    value.type = value.shape = None  # sizes have the tracer's names
        return ir.Graph([*pasts, *tokens], outputs, nodes=inside, name=f"{self._operator.name}_token")

    def _advanced(
        self, inside: list[ir.Node], port: Port, old: ir.Value, new: ir.Value, active: ir.Value | None
    ) -> ir.Value:
        """Return a state after a token: in rows that have ended it stays what it was."""
        rank = len(port.shape)
        if active is None:
            return _typed(_op(inside, "Identity", new), port, rank)
        batch = port.shape.index(self._steps.batch)
        axes = [axis for axis in range(rank) if axis != batch]
        if axes:
            active = _op(inside, "Unsqueeze", active, self._constant(axes))
        return _typed(_op(inside, "Where", active, new, old), port, rank)

    def _scanned(self, name: str, valid: ir.Value | None) -> ir.Value:
        """Return an input with its tokens first, and zeros beyond the rows' lengths."""
        port, value = self._operator.port(name), self._inputs[name]
        axis, rank = port.shape.index(self._steps.time), len(port.shape)
        if valid is not None and self._steps.batch in port.shape:
            keep = self._keep(valid, port.shape.index(self._steps.batch), axis, rank)
            nothing = np.zeros((), "int64" if port.type == INT64 else "bool" if port.type == BOOL else "float32")
            value = _op(self.nodes, "Where", keep, value, self._constant(nothing))
        order = [axis, *(place for place in range(rank) if place != axis)]
        return _op(self.nodes, "Transpose", value, perm=order) if axis else value

    def _keep(self, valid: ir.Value, batch: int, time: int, rank: int) -> ir.Value:
        """Return which tokens are valid with ones in the other dimensions of a tensor."""
        key = batch, time, rank
        if key not in self._keeps:
            keep = valid if batch < time else _op(self.nodes, "Transpose", valid, perm=[1, 0])
            others = [place for place in range(rank) if place not in (time, batch)]
            self._keeps[key] = _op(self.nodes, "Unsqueeze", keep, self._constant(others)) if others else keep
        return self._keeps[key]

    def _constant(self, value: Any) -> ir.Value:
        import onnx_ir as ir

        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.int64)
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = _op(self.nodes, "Constant", value=ir.tensor(array))
        return self._constants[key]


class AllTokens:
    """What a step computes from tokens alone, done for all of them at once, tokens first.

    Args:
        tokens: the values of a token -> the same of all tokens.
        nodes: where the nodes go that compute them.
    """

    def __init__(self, tokens: dict[ir.Value, ir.Value], nodes: list[ir.Node]) -> None:
        self._all = tokens
        self._nodes = nodes

    def take(self, inside: list[ir.Node], states: set[ir.Value]) -> list[ir.Node]:
        """Take over what can be done at once, which needs no states; return what stays in the loop."""
        known = {value for node in inside for value in node.outputs} | set(self._all) | states
        stays = []
        for node in inside:
            made = {value for value in node.inputs if value is not None and value in known}
            if made and made <= set(self._all) and self._fits(node, made):
                self._all[node.outputs[0]] = self._done(node)
                for index in range(len(node.inputs)):
                    node.replace_input_with(index, None)
            else:
                stays.append(node)
        return stays

    def enter(self, inside: list[ir.Node], outputs: Sequence[ir.Value]) -> dict[ir.Value, ir.Value]:
        """Make inputs of the loop of what it reads of them; return them, in order, with the values of all tokens."""
        import onnx_ir as ir

        read = {value for node in inside for value in (*node.inputs, *_captured(node))} | set(outputs)
        entered: dict[ir.Value, ir.Value] = {}
        for value in [value for value in self._all if value in read]:
            rank = ir.Shape([None] * _rank(value))
            inner = ir.Value(name=f"token.{len(entered)}", type=value.type, shape=rank)
            value.replace_all_uses_with(inner, replace_graph_outputs=True)
            entered[inner] = self._all[value]
        return entered

    def _fits(self, node: ir.Node, made: set[ir.Value]) -> bool:
        """Say whether a node does the same with one more dimension in front."""
        ranks = {_rank(value) for value in made}
        others = [value for value in node.inputs if value is not None and value not in made]
        if len(ranks) != 1 or any(value.shape is None for value in others):
            return False
        (rank,) = ranks
        if node.op_type in _ELEMENTWISE and node.domain == "":
            return all(_rank(value) <= rank for value in others)
        matrix = node.op_type == "MatMul" and node.inputs[0] in made and len(others) == 1
        return matrix and rank >= 2 and _rank(others[0]) == 2

    def _done(self, node: ir.Node) -> ir.Value:
        import onnx_ir as ir

        inputs = [self._all.get(value, value) if value is not None else None for value in node.inputs]
        self._nodes.append(ir.node(node.op_type, inputs, attributes=dict(node.attributes)))
        self._nodes[-1].outputs[0].type = node.outputs[0].type
        return self._nodes[-1].outputs[0]


# One number of each input makes one number of the result.
_ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu"),
        *("Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max"),
        *("Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin"),
        *("Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor"),
    )
)


def _rank(value: ir.Value) -> int:
    assert value.shape is not None
    return len(value.shape)


def _captured(node: ir.Node) -> Sequence[ir.Value | None]:
    """Return what the graphs inside a node read."""
    import onnx_ir as ir

    graphs = [
        attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH
    ]
    return [value for graph in graphs for inner in graph.all_nodes() for value in inner.inputs]


def _op(nodes: list[ir.Node], op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
    """Append a node and return its output."""
    import onnx_ir as ir

    nodes.append(ir.node(op_type, inputs, attributes=attributes))
    return nodes[-1].outputs[0]


def _value(name: str, port: Port, rank: int) -> ir.Value:
    import onnx_ir as ir

    kind = {INT64: ir.DataType.INT64, BOOL: ir.DataType.BOOL}.get(port.type, ir.DataType.FLOAT)
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape([None] * rank))


def _typed(value: ir.Value, port: Port, rank: int) -> ir.Value:
    like = _value("", port, rank)
    value.type, value.shape = like.type, like.shape
    return value


def _has_graph(node: ir.Node) -> bool:
    import onnx_ir as ir

    return any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
