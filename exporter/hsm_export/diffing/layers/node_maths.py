"""One node on given inputs: its maths in float64, and the error that it may make in its own precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...comparison.allowance import function_scale, sum_error, terms
from ...comparison.error import distance, finite_distance, is_exact, largest
from ...comparison.rounding import rounded
from ...comparison.threshold import Threshold, threshold
from ...onnx_model.file_operators import FileOperators
from ...runtimes import get
from ...runtimes.routing import logits_index
from ...runtimes.runtime import RunContext
from ...validation.running import quiet
from .graph import FLOATS, Layer, LayerGraph

Array = NDArray[Any]
# Results of the node in its own precision by tensor name, and the numbers that they stand for.
Native = tuple[Mapping[str, Array], Mapping[str, Array]]

# Not an operator, type or shape that PyTorch takes as ONNX means it.
_REFUSALS = (RuntimeError, KeyError, ValueError, TypeError, IndexError)
_SAME = 1e-9  # of two evaluations in float64, relative to the largest number
_ROUNDINGS = 3  # random roundings of the inputs that the condition is estimated from
_ORDERS = 3  # orders of summation of onnx's evaluator
# onnx's evaluator is written in Python; beyond so many numbers it takes minutes.
_EVALUATOR_ELEMENTS = 1 << 21


class NodeMaths:
    """Evaluates one layer; a context manager that keeps its float64 session open.

    Args:
        graph: the file's graph.
        layer: which node.
        context: the run context of the file.
        lengths: (B) valid tokens of each row; None when all are.
    """

    def __init__(self, graph: LayerGraph, layer: Layer, context: RunContext, lengths: Array | None = None) -> None:
        self._lengths = lengths
        self._graph = graph
        self._layer = layer
        self._node: onnx.NodeProto = graph.model.graph.node[layer.index]
        self._operator = FileOperators(graph.model).find(self._node)
        model = graph.extract([layer.index], layer.outputs)
        self._context = replace(context, model=model, source=None, routed=(), traced=(), summation=0)
        self._runner: Any = get("onnx64").runner(self._context)

    def __enter__(self) -> NodeMaths:
        with quiet():
            self._runner.activate()
        return self

    def __exit__(self, *error: object) -> None:
        with quiet():
            self._runner.deactivate()

    def exact(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the node's results in float64 on these inputs, by tensor name."""
        with quiet():
            outputs = self._runner.infer(
                {name: np.asarray(array) for name, array in inputs.items()}, check_inputs=False
            )
            arrays = {name: np.array(array) for name, array in outputs.items()}
        exact = {name: a if is_exact(a) else a.astype(np.float64) for name, a in arrays.items()}
        return self._checked(exact, inputs) if self._runner.is_evaluator else exact

    def _checked(self, exact: dict[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return what PyTorch makes of the node in float64 where onnx's evaluator, alone, says something else."""
        try:
            (precise,) = self._run_torch(inputs, double=True)[:1]
        except _REFUSALS:
            return exact
        for name, other in zip([name for name in self._node.output if name], precise, strict=False):
            if name in exact and distance(other, exact[name]) > _SAME * largest(exact[name]):
                self._context.remarks.add(f"onnx's evaluator errs in {self._layer.node}: PyTorch in float64 judges it")
                exact[name] = other
        return exact

    def told(self, name: str, inputs: Mapping[str, Array], exact: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Return which elements of an exact type native precision decides as float64 does; others are near ties."""
        ways = [own[name] for own, _ in self._natives(inputs, exact)[1] if name in own]
        if not ways:
            ways = [self.exact(rounded(inputs, self._rounded_to, draw))[name] for draw in range(_ROUNDINGS)]
        same = [value == exact[name] for value in ways if value.shape == exact[name].shape]
        return np.logical_and.reduce(same) if same else np.ones(exact[name].shape, bool)

    def thresholds(self, inputs: Mapping[str, Array], exact: Mapping[str, Array]) -> dict[str, Threshold]:
        """Return how large the node's own error may be on these inputs, by tensor name.

        Args:
            inputs: what the node reads.
            exact: its results in float64 on them.
        """
        native_by, natives = self._natives(inputs, exact)
        moved = [rounded(inputs, self._rounded_to, draw) for draw in range(_ROUNDINGS)]
        results = [self.exact(of_draw) for of_draw in moved]
        thresholds = {}
        for name in self._layer.outputs:
            counted = self._graph.specified(name, exact[name], self._lengths)
            native = max((finite_distance(own[name], of[name], counted) for own, of in natives), default=0.0)
            condition = max(finite_distance(result[name], exact[name], counted) for result in results)
            scale = largest(exact[name], counted)
            native = max(native, sum_error(self._terms(inputs, exact), scale))
            scale = max(scale, self._function_scale(inputs))
            # The runtime's own kernels may compute a node in a worse conditioned way than its definition.
            thresholds[name] = threshold(
                self._graph.precision(name), scale, native, condition, native_by, bounded=False
            )
        return thresholds

    def _terms(self, inputs: Mapping[str, Array], exact: Mapping[str, Array]) -> int:
        """Return how many terms sums have of which `_natives` shows no other orders."""
        if self._node.domain not in ("", "com.microsoft"):
            return 0
        shapes = [self._shape(name, inputs) for name in self._node.input]
        return terms(self._node.op_type, shapes, next(iter(exact.values())).size if exact else 1)

    def _shape(self, name: str, inputs: Mapping[str, Array]) -> tuple[int, ...]:
        if name in inputs:
            return tuple(inputs[name].shape)
        dims = self._graph.info(name).type.tensor_type.shape.dim if name else ()
        return tuple(dim.dim_value for dim in dims)

    def _function_scale(self, inputs: Mapping[str, Array]) -> float:
        if self._node.domain not in ("", "com.microsoft"):
            return 0.0
        first = inputs.get(self._node.input[0]) if self._node.input else None
        return function_scale(self._node.op_type, 0.0 if first is None else largest(first))

    def _rounded_to(self, name: str) -> str | None:
        return None if self._is_routing(name) else self._graph.precision(name)

    def _is_routing(self, name: str) -> bool:
        """Say whether a choice is made by an input: rounding may change that, which is no matter of precision."""
        operator = self._operator
        return (
            operator is not None and operator.routing is not None and name == self._node.input[logits_index(operator)]
        )

    def _natives(self, inputs: Mapping[str, Array], exact: Mapping[str, Array]) -> tuple[str, list[Native]]:
        """Return who can run the node in its own precision, and its results in each way to round.

        PyTorch's mixer operators are held to themselves in float64, not to the function body: where a body is wrong,
        the difference is a fault and no rounding.
        """
        by, results = "", self._torch(inputs, exact)
        if results:
            by = "torch"
        work = sum(np.size(array) for array in inputs.values())
        if (not results or self._operator is not None) and work <= _EVALUATOR_ELEMENTS:
            found = self._evaluator(inputs)
            results += [(own, exact) for own in found]
            by = by or ("onnx-reference" if found else "")
        return by, results

    def _torch(self, inputs: Mapping[str, Array], exact: Mapping[str, Array]) -> list[Native]:
        try:
            ways = self._run_torch(inputs)
            precise = self._run_torch(inputs, double=True)[0] if self._operator is not None else None
        except _REFUSALS:
            return []
        outputs = [name for name in self._node.output if name]
        of = exact if precise is None else dict(zip(outputs, precise, strict=True))
        # What a standard operator returns besides its first result, PyTorch's lacks.
        return [(dict(zip(outputs, way, strict=True)), of) for way in ways if len(way) == len(outputs)]

    def _run_torch(self, inputs: Mapping[str, Array], *, double: bool = False) -> list[list[Array]]:
        """Run the node in PyTorch, in its own types or in float64, in each of its ways to round."""
        from .native import native_results

        node = self._node
        if any(attribute.HasField("g") for attribute in node.attribute):
            return []
        constants = self._graph.constants(self._layer.index, self._context.folder)
        arrays = [None if not name else inputs[name] if name in inputs else constants[name] for name in node.input]
        types = [self._graph.types.get(name, onnx.TensorProto.FLOAT) for name in node.input]
        if double:
            types = [onnx.TensorProto.DOUBLE if kind in FLOATS else kind for kind in types]
        return native_results(node, arrays, types)

    def _evaluator(self, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Run onnx's own evaluator with the terms of products in several orders."""
        results = []
        runtime = get("onnx-reference")
        typed = {name: self._typed(name, array) for name, array in inputs.items()}
        for order in range(_ORDERS):
            try:
                with quiet(), runtime.runner(replace(self._context, summation=order)) as runner:
                    results.append({name: np.array(a) for name, a in runner.infer(typed, check_inputs=False).items()})
            except Exception:  # any operator or type that the evaluator lacks; the other terms remain
                break
        return results

    def _typed(self, name: str, array: Array) -> Array:
        """Return an array in the tensor's own type; only bfloat16 ones come in another."""
        kind = self._graph.types.get(name, onnx.TensorProto.FLOAT)
        return np.asarray(array).astype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind in FLOATS else array
