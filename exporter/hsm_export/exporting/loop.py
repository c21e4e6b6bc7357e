"""A traced step as the body of a Scan over the tokens.

Every input and output of the Scan's body has a type and a rank: ONNX Runtime up to 1.23 fails without. What a step
computes from weights alone stands before the loop.
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
        body = self._body(inside, masked=valid is not None)
        scanned = [self._scanned(name, valid) for name in self._tokens]
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

    def _body(self, inside: list[ir.Node], *, masked: bool) -> ir.Graph:
        """Return the graph of one token: states and tokens in, states and outputs out."""
        import onnx_ir as ir

        pasts = [self._given[name] for name in self._steps.pasts]
        tokens = [self._given[name] for name in self._tokens]
        for name in (*self._steps.pasts, *self._tokens):
            port = self._operator.port(name)
            self._given[name].name = f"{name}.token"
            _typed(self._given[name], port, len(port.shape) - (name in self._tokens))
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
