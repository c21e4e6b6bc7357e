"""Rewrite a float32 graph so that weights and activations are float16 or bfloat16, with islands of float32.

The rules, for every float32 value:

* Weights and activations become T.
* Islands: softmax, norms, reductions, powers, roots, exponentials, sines and whatever the operators of domain `hsm`
  want in float32 by their schema (routing logits, running sums) are computed in float32.
* What only feeds an island, such as the scores and the mask before a softmax, is computed in float32 too; before
  routing logits even the matrix product is, from the weight in float32.
* What follows an island stays float32 until it meets a value of type T; that operation is computed in float32 and
  rounded to T. Matrix products and convolutions always take T. What follows a norm is T.
* A constant beyond the range of T becomes T's largest number; an operation with a constant that T would round to zero
  is computed in float32.
* Inputs and outputs of the graph keep their types, except those that carry activations from call to call: these are T.
  Sums that are carried stay float32, and so do the products that only go into them or read them.

A list of nodes replaces the rules wherever ONNX, T and the exactness of positions and routing leave a choice: the
listed nodes compute in float32, the others in T.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..dtypes import BY_ONNX, BY_PRECISION
from ..errors import BadInputError
from ..onnx_model.transposed_products import transpose_after_products
from .classification import Classifier, small_constant

if TYPE_CHECKING:
    import onnx_ir as ir


def convert(
    model: ir.Model,
    precision: str,
    parameters: set[str],
    carried: Collection[str] = (),
    listed: Collection[str] | None = None,
    sums: Collection[str] = (),
) -> None:
    """Rewrite a model in place.

    Args:
        model: a float32 model without function bodies.
        precision: "fp16" or "bf16".
        parameters: names of the initialisers that are trained weights; they must be finite in T.
        carried: names of the inputs and outputs that are to be T.
        listed: names of the nodes that compute in float32; None lets the rules decide.
        sums: names of the inputs and outputs that carry sums from call to call; they stay float32.

    Raises:
        BadInputError: a weight is too large for float16.
    """
    import onnx_ir as ir

    classifier = classify(model, precision, listed, sums)
    low = low_type(precision)
    rewrite = _Rewrite(model.graph, low, frozenset(carried))
    rewrite.lower_inputs()
    for value in list(model.graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT and value not in classifier.wide_constants:
            rewrite.lower_constant(value, parameters)
    nodes = list(model.graph)
    for node in nodes:
        plan = classifier.plans.get(node)
        if plan is not None:
            rewrite.set_outputs(node, plan.outputs)
    for node in nodes:
        plan = classifier.plans.get(node)
        if plan is not None:
            rewrite.cast_inputs(node, plan.inputs)
        rewrite.cast_captures(node)
    rewrite.gather_before_casting()
    rewrite.settle_constants()
    rewrite.settle_outputs()
    transpose_after_products(model.graph)


def low_type(precision: str) -> ir.DataType:
    """Return T for "fp16" or "bf16"."""
    import onnx_ir as ir

    return ir.DataType(BY_PRECISION[precision].onnx)


def classify(
    model: ir.Model, precision: str, listed: Collection[str] | None = None, sums: Collection[str] = ()
) -> Classifier:
    """Return how each node of a float32 model is to compute; the arguments are those of `convert`."""
    classifier = Classifier(model, low_type(precision), listed, sums)
    classifier.run()
    return classifier


class _Rewrite:
    """Applies a plan to a graph.

    Args:
        graph: the graph to change.
        low: T.
        carried: names of the inputs and outputs that are to be T.
    """

    def __init__(self, graph: ir.Graph, low: ir.DataType, carried: frozenset[str]) -> None:
        self._graph = graph
        self._low = low
        self._carried = carried
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._lowered: set[ir.Value] = set()

    def lower_inputs(self) -> None:
        """Give the carried inputs their type."""
        for value in self._graph.inputs:
            if value.name in self._carried:
                value.dtype = self._low
                self._lowered.add(value)

    def lower_constant(self, value: ir.Value, parameters: set[str]) -> None:
        """Store a weight in T; of another constant keep the float32 original for the readers that want it."""
        import onnx_ir as ir

        tensor = value.const_value
        assert tensor is not None and value.name is not None
        is_weight = value.name in parameters
        if is_weight:
            _require_in_range(tensor, value.name, self._low)
        lowered = _lowered(tensor, self._low, clamp=not is_weight)
        if is_weight or small_constant(value) is None:
            value.const_value = lowered
            value.dtype = self._low
            self._lowered.add(value)
            return
        name = f"{value.name}.{BY_ONNX[self._low.value].precision}"
        copy = ir.Value(name=name, type=ir.TensorType(self._low), shape=value.shape, const_value=lowered)
        lowered.name = name
        self._graph.initializers.add(copy)
        self._casts[value, self._low] = copy

    def set_outputs(self, node: ir.Node, outputs: dict[int, bool]) -> None:
        """Give a node's results their new type."""
        for index, wide in outputs.items():
            if not wide:
                node.outputs[index].dtype = self._low
                self._lowered.add(node.outputs[index])

    def cast_inputs(self, node: ir.Node, inputs: dict[int, bool]) -> None:
        """Feed a node with the types that it wants."""
        import onnx_ir as ir

        for index, wide in inputs.items():
            value = node.inputs[index]
            assert value is not None
            wanted = ir.DataType.FLOAT if wide else self._low
            if value.dtype != wanted:
                node.replace_input_with(index, self._cast(value, wanted))

    def cast_captures(self, node: ir.Node) -> None:
        """Feed the subgraphs of a node, which stay float32, with float32 copies of what they capture."""
        import onnx_ir as ir

        for attribute in node.attributes.values():
            if attribute.type != ir.AttributeType.GRAPH:
                continue
            graph = attribute.as_graph()
            for inner in graph.all_nodes():
                for index, value in enumerate(inner.inputs):
                    if value in self._lowered:
                        assert value is not None
                        inner.replace_input_with(index, self._cast(value, ir.DataType.FLOAT))
            for index, value in enumerate(graph.outputs):
                if value in self._lowered:
                    graph.outputs[index] = self._cast(value, ir.DataType.FLOAT)

    def gather_before_casting(self) -> None:
        """Cast the rows that are read of a table, such as an embedding, in place of the whole table."""
        for node in list(self._graph):
            table = node.inputs[0] if node.op_type == "Gather" and node.domain == "" else None
            cast = table.producer() if table is not None else None
            if cast is None or cast.op_type != "Cast" or not (weight := cast.inputs[0]) or not weight.is_initializer():
                continue
            assert table is not None
            node.replace_input_with(0, weight)
            self._cast_rows(node, weight)
            if not table.uses():
                self._graph.remove(cast, safe=True)
                self._casts = {key: value for key, value in self._casts.items() if value is not table}

    def _cast_rows(self, node: ir.Node, weight: ir.Value) -> None:
        """Make a Gather from a table in T give rows in T, and cast them for those who read them in float32."""
        import onnx_ir as ir

        rows, low = node.outputs[0], weight.dtype
        name, dtype = rows.name, rows.dtype
        assert name is not None and dtype is not None and low is not None
        lowered = self._casts.pop((rows, low), None)  # the same numbers: float32 holds all of T's
        back = None if lowered is None else lowered.producer()
        wide = ir.node("Cast", [rows], attributes={"to": dtype}, name=f"{name}.{BY_ONNX[dtype.value].precision}")
        for use in list(rows.uses()):
            if use.node is not wide and use.node is not back:
                use.node.replace_input_with(use.idx, wide.outputs[0])
        for index, value in enumerate(self._graph.outputs):
            if value is rows:
                self._graph.outputs[index] = wide.outputs[0]
        if lowered is not None and back is not None:
            lowered.replace_all_uses_with(rows, replace_graph_outputs=True)
            self._graph.remove(back, safe=True)
        rows.name, rows.dtype = f"{name}.{BY_ONNX[low.value].precision}", low
        out = wide.outputs[0]
        out.name, out.dtype, out.shape = name, dtype, rows.shape
        if out.uses() or out.is_graph_output():
            self._graph.insert_after(node, wide)
        else:
            wide.replace_input_with(0, None)
            rows.name = name

    def settle_constants(self) -> None:
        """Let a constant that is read in T only keep its name."""
        for (value, dtype), copy in self._casts.items():
            name = value.name
            if value.is_initializer() and dtype == self._low and not value.uses() and not value.is_graph_output():
                assert name is not None and copy.name is not None and copy.const_value is not None
                for old in (name, copy.name):
                    del self._graph.initializers[old]
                copy.name = copy.const_value.name = name
                self._graph.initializers.add(copy)

    def settle_outputs(self) -> None:
        """Give the graph's outputs their type, float32 or for the carried ones T, under their own names."""
        import onnx_ir as ir

        for index, value in enumerate(self._graph.outputs):
            if value.dtype not in (ir.DataType.FLOAT, self._low):
                continue
            wanted = self._low if value.name in self._carried else ir.DataType.FLOAT
            if value.dtype != wanted:
                name, value.name = value.name, f"{value.name}.{BY_ONNX[value.dtype.value].precision}"
                cast = self._cast(value, wanted)
                cast.name = name
                self._graph.outputs[index] = cast

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return a value in another type; there is one Cast for all readers, right after the producer."""
        import onnx_ir as ir

        key = (value, dtype)
        if key not in self._casts:
            name = f"{value.name}.{BY_ONNX[dtype.value].precision}"
            node = ir.node("Cast", [value], attributes={"to": dtype}, name=name)
            output = node.outputs[0]
            output.name, output.dtype, output.shape = name, dtype, value.shape
            producer = value.producer()
            if producer is None:
                self._graph.insert_before(self._graph[0], node)
            else:
                self._graph.insert_after(producer, node)
            self._casts[key] = output
        return self._casts[key]


def _require_in_range(tensor: ir.TensorProtocol, name: str, low: ir.DataType) -> None:
    """Refuse a weight that overflows in T."""
    if tensor.size == 0:
        return
    array = tensor.numpy()
    largest, limit = float(max(array.max(), -array.min())), BY_ONNX[low.value].largest
    if largest > limit:
        raise BadInputError(
            f"weight {name} holds {largest:.6g}, but the largest {low.name.lower()} is {limit:g}",
            "use --precision bf16, which has the range of float32",
        )


def _lowered(tensor: ir.TensorProtocol, low: ir.DataType, clamp: bool) -> ir.LazyTensor:
    """Return a tensor in T that is converted when it is written; finite numbers stay finite with `clamp`."""
    import numpy as np
    import onnx_ir as ir

    def make() -> ir.TensorProtocol:
        array = tensor.numpy()
        if clamp:
            limit = BY_ONNX[low.value].largest
            array = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
        return ir.Tensor(np.asarray(array).astype(low.numpy()), dtype=low, name=tensor.name)

    return ir.LazyTensor(make, dtype=low, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)
