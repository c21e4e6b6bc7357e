"""Decide which parts of a graph compute in low precision (T) and which stay float32; the rules are in `precision`."""

from __future__ import annotations

import enum
import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir
    from numpy.typing import NDArray

_NORMS = frozenset(
    {"LayerNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization", "RMSNormalization"}
)
_ISLANDS = frozenset(
    {"Softmax", "LogSoftmax", "Pow", "Sqrt", "Exp", "Log", "Reciprocal", "Sin", "Cos", "Erf", "Softplus", "CumSum"}
    | {f"Reduce{name}" for name in ("Sum", "Mean", "L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Prod")}
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN"})
# Their results are some of their inputs, so rounding before them or after them is the same.
_SELECTIONS = frozenset({"Concat", "Where", "Max", "Min", "Pad", "ScatterND", "ScatterElements"})


class Kind(enum.Enum):
    """What a float32 value of the original graph is.

    CONSTANT: made from weights, constants and shapes only, without an island; it takes the type of its readers.
    LOW: an activation, of type T.
    WIDE: the result of an island, or exact, such as a position; it stays float32 among its like.
    """

    CONSTANT = "constant"
    LOW = "low"
    WIDE = "wide"


@dataclass
class NodePlan:
    """How a node is to compute.

    Attributes:
        inputs: input index -> True for float32, False for T; only float32 inputs of the original graph.
        outputs: output index -> True for float32, False for T.
    """

    inputs: dict[int, bool] = field(default_factory=dict)
    outputs: dict[int, bool] = field(default_factory=dict)


class Classifier:
    """Plans every node of a model's main graph.

    Args:
        model: a float32 model without function bodies.
        low: T.
        listed: names of the nodes that compute in float32, all others in T where they may; None decides by the rules.
        sums: names of the inputs and outputs that carry sums from call to call.

    Attributes:
        plans: how every node that touches float32 is to compute.
        wide_constants: initialisers that stay float32.
        free: the nodes for which both types are possible, so that a list may decide.
    """

    def __init__(
        self, model: ir.Model, low: ir.DataType, listed: Collection[str] | None = None, sums: Collection[str] = ()
    ) -> None:
        self._graph = model.graph
        self._listed = listed
        self._opset = model.opset_imports[""]
        self._low = low
        self._nodes = list(model.graph)
        self._kinds: dict[ir.Value, Kind] = {}
        self._varies: set[ir.Value] = set()
        self._demanded: set[ir.Value] = {value for value in self._graph.outputs if value.name in sums}
        self._exact: set[ir.Value] = {value for value in self._graph.outputs if value.name in sums}
        self._sums: set[ir.Value] = {value for value in self._graph.inputs if value.name in sums}
        self.plans: dict[ir.Node, NodePlan] = {}
        self.wide_constants: set[ir.Value] = set()
        self.free: list[ir.Node] = []

    def run(self) -> None:
        """Fill `plans`, `wide_constants` and `free`."""
        self._find_varying()
        self._find_demand()
        for value in self._graph.initializers.values():
            self._kinds[value] = Kind.CONSTANT
        for value in self._graph.inputs:
            self._kinds[value] = Kind.WIDE if value in self._sums else Kind.LOW
        for node in self._nodes:
            self._plan(node)
        self._settle_constants()

    def _find_varying(self) -> None:
        """Find the values that depend on what the graph's inputs hold, not only on their shapes."""
        self._varies.update(self._graph.inputs)
        for node in self._nodes:
            if node.op_type not in ("Shape", "Size") and any(value in self._varies for value in _reads(node)):
                self._varies.update(node.outputs)

    def _find_demand(self) -> None:
        """Find the values that only islands read (`_demanded`), and those of them before routing (`_exact`).

        What only goes into a carried sum is wanted as what goes into routing is: also by products.
        """
        results = set(self._graph.outputs)
        for node in reversed(self._nodes):
            for value in {value for value in _reads(node) if _is_float(value)}:
                uses = tuple(value.uses())
                if value in results:
                    continue
                if all(self._wants_wide(reader, index, self._demanded, frozenset()) for reader, index in uses):
                    self._demanded.add(value)
                if all(self._wants_wide(reader, index, self._exact, _PRODUCTS) for reader, index in uses):
                    self._exact.add(value)

    def _wants_wide(self, node: ir.Node, index: int, demanded: set[ir.Value], through: frozenset[str]) -> bool:
        """Say whether a reader wants an input in float32; operators in `through` pass their readers' wish on."""
        exact = bool(through)
        if node.graph is not self._graph or _has_graph(node):
            return True
        if node.domain != "":
            return index in self._fixed_inputs(node)
        if (_is_island(node) or node.op_type in _NORMS) and not exact:
            return True
        if _is_island(node) or node.op_type in _NORMS | (_PRODUCTS - through):
            return False
        floats = [value for value in node.outputs if _is_float(value)]
        return bool(floats) and all(value in demanded for value in floats)

    def _plan(self, node: ir.Node) -> None:
        floats = [index for index, value in enumerate(node.inputs) if value is not None and _is_float(value)]
        results = [index for index, value in enumerate(node.outputs) if _is_float(value)]
        if not floats and not results and not _has_graph(node):
            return
        free = not self._is_settled(node, floats)
        if free:
            self.free.append(node)
        if free and self._listed is not None:
            self._plan_listed(node, floats, results, node.name in self._listed)
        elif node.domain != "":
            self._plan_mixer(node, floats, results)
        elif _has_graph(node) or _is_island(node):
            self._set(node, floats, results, True, True, Kind.WIDE)
        elif node.op_type in _NORMS:
            kind = Kind.WIDE if node.outputs[0] in self._exact else Kind.LOW
            self._set(node, floats, results, True, True, kind)
        elif node.op_type in _PRODUCTS:
            self._plan_product(node, floats, results)
        elif not floats or node.op_type in ("Cast", "CastLike"):
            self._plan_source(node, floats, results)
        else:
            self._plan_follower(node, floats, results)

    def _is_settled(self, node: ir.Node, floats: list[int]) -> bool:
        """Say whether the rules decide about a node even if there is a list.

        ONNX or T leaves no choice; or no measurement on examples would show the harm: positions are exact up to the
        longest sequence, not only up to that of the examples, and a flipped choice of experts is no rounding error.
        """
        if _has_graph(node) or not floats or node.op_type in ("Cast", "CastLike"):
            return True
        if not any(value in self._varies for value in node.outputs):
            return True
        if node.domain != "":
            return False
        if any(not self._allows_low(node, index) for index in floats):
            return True
        if node.op_type in _PRODUCTS | _NORMS:
            return node.outputs[0] in self._exact
        return not _is_island(node) and any(vanishes(node.inputs[index], self._low) for index in floats)

    def _plan_listed(self, node: ir.Node, floats: list[int], results: list[int], wide: bool) -> None:
        """A node that a list decides about: float32 or T, but for the ports whose type is fixed."""
        fixed, fixed_results = self._fixed_inputs(node), self._fixed_outputs(node)
        if node.domain == "":
            fixed_results = frozenset(index for index in results if not self._follows(node, index, floats))
        self.plans[node] = NodePlan(
            {index: wide or index in fixed for index in floats},
            {index: wide or index in fixed_results for index in results},
        )
        for index in results:
            self._kinds[node.outputs[index]] = Kind.WIDE if self.plans[node].outputs[index] else Kind.LOW

    def _plan_mixer(self, node: ir.Node, floats: list[int], results: list[int]) -> None:
        """An operator of another domain takes T where its schema lets it, unless nothing of type T comes in."""
        fixed = self._fixed_inputs(node)
        wide = not any(self._kind(node, index) is Kind.LOW for index in floats if index not in fixed)
        plan = NodePlan({index: wide or index in fixed for index in floats})
        fixed_results = self._fixed_outputs(node)
        for index in results:
            plan.outputs[index] = wide or index in fixed_results
            self._kinds[node.outputs[index]] = Kind.WIDE if plan.outputs[index] else Kind.LOW
        self.plans[node] = plan

    def _plan_product(self, node: ir.Node, floats: list[int], results: list[int]) -> None:
        """A product takes T, except with carried sums, before them and before routing logits, or if ONNX forbids.

        Nor does it among exact values such as positions.

        What ONNX does not define in T (bfloat16 convolutions before opset 22) computes in float32 and rounds.
        """
        if any(not self._allows_low(node, index) for index in floats):
            self._set(node, floats, results, True, True, Kind.LOW)
            return
        operands = [node.inputs[index] for index in floats if self._kind(node, index) is not Kind.CONSTANT]
        exact = bool(operands) and all(
            self._kinds[value] is Kind.WIDE and value not in self._varies for value in operands if value is not None
        )
        wide = exact or node.outputs[0] in self._exact or any(value in self._sums for value in operands)
        self._set(node, floats, results, wide, wide, Kind.WIDE if wide else Kind.LOW)

    def _plan_source(self, node: ir.Node, floats: list[int], results: list[int]) -> None:
        """Casts and nodes that make floats from shapes and integers: exact, so float32."""
        kind = Kind.CONSTANT if node.op_type == "ConstantOfShape" else Kind.WIDE
        self._set(node, floats, results, True, True, kind)

    def _plan_follower(self, node: ir.Node, floats: list[int], results: list[int]) -> None:
        """Any other node takes the type of what it reads; where types meet it computes in float32 and rounds."""
        kinds = {self._kind(node, index) for index in floats} - {Kind.CONSTANT}
        demanded = bool(results) and all(node.outputs[index] in self._demanded for index in results)
        if not kinds and not any(value in self._varies for value in node.outputs):
            for index in results:
                self._kinds[node.outputs[index]] = Kind.CONSTANT
            return
        if kinds == {Kind.WIDE} or demanded:
            self._set(node, floats, results, True, True, Kind.WIDE)
            if any(node.inputs[index] in self._sums for index in floats):
                self._sums.update(node.outputs)
        elif self._must_round(node, floats, mixed=Kind.WIDE in kinds):
            self._set(node, floats, results, True, True, Kind.LOW)
        else:
            self._set(node, floats, results, False, False, Kind.LOW)

    def _must_round(self, node: ir.Node, floats: list[int], mixed: bool) -> bool:
        """Say whether a node must compute in float32 although its result is to be T."""
        if mixed and node.op_type not in _SELECTIONS:
            return True
        if any(not self._allows_low(node, index) for index in floats):
            return True
        return any(vanishes(node.inputs[index], self._low) for index in floats)

    def _settle_constants(self) -> None:
        """Give weights, constants and what is made from them alone the type of their readers, last first."""
        for node in reversed(self._nodes):
            results = [i for i, value in enumerate(node.outputs) if self._kinds.get(value) is Kind.CONSTANT]
            if node in self.plans or not results:
                continue
            floats = [index for index, value in enumerate(node.inputs) if value is not None and _is_float(value)]
            wide = all(self._read_wide(node.outputs[index]) for index in results)
            wide = wide or any(not self._allows_low(node, index) for index in floats)
            self.plans[node] = NodePlan(dict.fromkeys(floats, wide), dict.fromkeys(results, wide))
        for value in self._graph.initializers.values():
            if _is_float(value) and self._read_wide(value):
                self.wide_constants.add(value)

    def _read_wide(self, value: ir.Value) -> bool:
        """Say whether every reader of a constant takes it in float32."""
        for reader, index in value.uses():
            plan = self.plans.get(reader)
            if plan is not None and not plan.inputs.get(index, True):
                return False
        return True

    def _set(
        self, node: ir.Node, floats: list[int], results: list[int], wide_in: bool, wide_out: bool, kind: Kind
    ) -> None:
        self.plans[node] = NodePlan(dict.fromkeys(floats, wide_in), dict.fromkeys(results, wide_out))
        for index in results:
            self._kinds[node.outputs[index]] = kind

    def _kind(self, node: ir.Node, index: int) -> Kind:
        value = node.inputs[index]
        assert value is not None
        return self._kinds[value]

    def _fixed_inputs(self, node: ir.Node) -> frozenset[int]:
        return _fixed_ports(node.domain, node.op_type, outputs=False)

    def _fixed_outputs(self, node: ir.Node) -> frozenset[int]:
        return _fixed_ports(node.domain, node.op_type, outputs=True)

    def _follows(self, node: ir.Node, index: int, floats: list[int]) -> bool:
        """Say whether a result has the type of one of the inputs; the mean that a norm returns, for one, has not."""
        schema = _standard_schema(node.op_type, self._opset)
        types = {schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in floats}
        return schema.outputs[min(index, len(schema.outputs) - 1)].type_str in types

    def _allows_low(self, node: ir.Node, index: int) -> bool:
        schema = _standard_schema(node.op_type, self._opset)
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        return f"tensor({self._low.name.lower()})" in formal.types


def _is_island(node: ir.Node) -> bool:
    """Say whether a node of ONNX's own computes in float32: also one that adds up or chooses while it scatters."""
    scattered = node.op_type in ("ScatterElements", "ScatterND")
    return node.op_type in _ISLANDS or (scattered and node.attributes.get_string("reduction", "none") != "none")


def vanishes(value: ir.Value | None, low: ir.DataType) -> bool:
    """Say whether a small constant has a non-zero entry that T rounds to zero, such as an epsilon in float16."""
    import numpy as np

    array = small_constant(value)
    if array is None:
        return False
    with np.errstate(over="ignore"):
        return bool(((array != 0) & (array.astype(low.numpy()) == 0)).any())


def small_constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    """Return the value of a float constant of at most 64 entries, else None."""
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.size > 64 or value is None or not _is_float(value):
        return None
    return tensor.numpy()


def _reads(node: ir.Node) -> Iterable[ir.Value]:
    """Yield the values that a node and its subgraphs read."""
    for value in node.inputs:
        if value is not None:
            yield value
    for graph in _graphs(node):
        for inner in graph:
            yield from _reads(inner)
        yield from graph.outputs


def _graphs(node: ir.Node) -> Iterable[ir.Graph]:
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()


def _has_graph(node: ir.Node) -> bool:
    return any(True for _ in _graphs(node))


def _is_float(value: ir.Value) -> bool:
    import onnx_ir as ir

    return value.dtype == ir.DataType.FLOAT


@functools.cache
def _standard_schema(name: str, opset: int) -> onnx.defs.OpSchema:
    import onnx

    return onnx.defs.get_schema(name, opset, "")


@functools.cache
def _fixed_ports(domain: str, name: str, outputs: bool) -> frozenset[int]:
    """Return the inputs or outputs of an operator that are float32 whatever T is."""
    from hsm_operators import find

    operator = find(domain, name)
    if operator is None:
        return frozenset()
    values = operator.outputs if outputs else operator.inputs
    return frozenset(index for index, value in enumerate(values) if value.type == "tensor(float)")
