"""Convert a model with any choice of float32 nodes, just as an export would, and measure it in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ...comparison.error import distance
from ...dtypes import BY_PRECISION
from ...exporting.assembling import FloatGraph, active_counts, carried, feed_of
from ...exporting.comparing import Reference, references
from ...exporting.precision import classify, convert
from ...onnx_model.bfloat16 import widen_bfloat16
from ...onnx_model.file_operators import FileOperators
from ...runtimes.session import cpu_session
from .search import Deviation

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from torch import Tensor

    from ...exporting.source import Source

Runs = Sequence[Sequence["Tensor"]]


@dataclass(frozen=True)
class NodeCost:
    """What a node moves more in float32, in bytes, and what it computes in float32, in operations."""

    bytes: int
    flops: int

    @property
    def total(self) -> float:
        """Both in bytes, at least 1.

        A GPU of today computes about 15 float32 operations in the time in which it moves a byte (H200: 67 TFLOP/s
        and 4.8 TB/s); in low precision, tensor cores make the same operations all but free.
        """
        return 1.0 + self.bytes + self.flops / 15.0


class Trials:
    """One model in one precision: which nodes there are, what they cost, how far off each choice is.

    Args:
        source: the model.
        graph: what it is traced to.
        precision: "fp16" or "bf16".
        runs: the inputs of the search.
        fresh: inputs that the search does not see.
    """

    def __init__(self, source: Source, graph: FloatGraph, precision: str, runs: Runs, fresh: Runs) -> None:
        self._source = source
        self._precision = precision
        self._graph = graph
        active = active_counts(self._graph.model)
        given, unseen = (replace(source, runs=tuple(map(tuple, runs))) for runs in (runs, fresh))
        self.references = references(given, precision, active, bounded=False)
        self.fresh = references(unseen, precision, active, bounded=False)
        classifier = classify(self._copy(), precision)
        self.operators = {node.name or "": node.op_type for node in classifier.free}
        self.rule = tuple(
            node.name or ""
            for node in classifier.free
            if all((*classifier.plans[node].inputs.values(), *classifier.plans[node].outputs.values()))
        )
        self._checked = [index for index, value in enumerate(self._graph.model.graph.outputs) if _is_float(value)]

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the nodes for which there is a choice, in graph order."""
        return tuple(self.operators)

    @cached_property
    def costs(self) -> dict[str, NodeCost]:
        """Cost of each candidate at the shapes of the largest case."""
        import onnx_ir as ir

        from ...inspection.costs import node_cost
        from ...onnx_model.shapes import infer, skeleton

        model = ir.to_proto(self._copy())
        tensors, operators = infer(skeleton(model), self._sizes(model)), FileOperators(model)
        found = {}
        for node in model.graph.node:
            if node.name not in self.operators:
                continue
            known = [tensors[name].bytes for name in (*node.input, *node.output) if name in tensors]
            flops, moved = node_cost(node, tensors, operators) or (0, sum(known))
            found[node.name] = NodeCost((moved or sum(known)) // 2, flops)
        return found

    def measure(self, listed: Collection[str]) -> Deviation:
        """Measure the file whose listed nodes are float32, on the inputs of the search."""
        return self.deviation(self.rounding_session(self.model(listed)), self.references)

    def model(self, listed: Collection[str] | None, precision: str | None = None) -> onnx.ModelProto:
        """Return the graph that an export writes, with the choice of experts as an input.

        Args:
            listed: names of the float32 nodes; None leaves that to the rule by operator type.
            precision: another precision than that of the trials.
        """
        import onnx_ir as ir

        from ...exporting.bodies import add_bodies
        from ...runtimes.routing import instrument

        model = self._copy()
        if (precision or self._precision) != "fp32":
            convert(model, self._precision, self._graph.parameters, carried(self._source, "precision"), listed)
        add_bodies(model)
        return instrument(ir.to_proto(model))[0]

    def rounding_session(self, model: onnx.ModelProto) -> Any:
        """Return an ONNX Runtime session that rounds every result to the type that the file gives it.

        Left alone, its CPU provider passes float32 on between neighbours for which it has no float16 kernels. A GPU
        rounds there, and so the search would find out what this processor lacks.
        """
        low = BY_PRECISION[self._precision].onnx_name
        return cpu_session(widen_bfloat16(model, borders=True, low=low), Path())

    def session(self, model: onnx.ModelProto) -> Any:
        """Return the session in which the runtime `ort` runs a model."""
        return cpu_session(widen_bfloat16(model, borders=True), Path())

    def deviation(self, session: Any, expected: Sequence[Reference]) -> Deviation:
        """Run a session on inputs and measure it against float64."""
        outputs = [session.run(None, feed_of(self._graph.model, item.feeds, item.masks)) for item in expected]
        return self._deviation(outputs, expected)

    def milliseconds(self, sessions: Sequence[Any], rounds: int = 15) -> list[float]:
        """Return the median time of the largest case in each session; they take turns under the same load."""
        largest = max(self.references, key=_elements)
        feed = feed_of(self._graph.model, largest.feeds, largest.masks)
        times: list[list[float]] = [[] for _ in sessions]
        for _ in range(rounds):
            for session, found in zip(sessions, times, strict=True):
                start = time.perf_counter()
                session.run(None, feed)
                found.append(time.perf_counter() - start)
        return [1000 * median(found) for found in times]

    def _deviation(self, runs: Sequence[Sequence[Any]], expected: Sequence[Reference]) -> Deviation:
        largest, squares, count = 0.0, 0.0, 0
        for outputs, item in zip(runs, expected, strict=True):
            for index in self._checked:
                bar = item.bars[index]
                value = np.asarray(outputs[index])
                # A NaN of the file's own is no small error.
                largest = max(largest, distance(value, bar.reference, bar.comparable))
                gaps = np.where(bar.comparable, value, 0.0) - np.where(bar.comparable, bar.reference, 0.0)
                squares += float(np.square(gaps, dtype=np.float64).sum())
                count += gaps.size
        return Deviation(largest, float(np.sqrt(squares / max(count, 1))))

    def _copy(self) -> ir.Model:
        """Return a copy of the float32 graph whose values have types of their own; the weights are shared."""
        import onnx_ir as ir

        model = self._graph.model.clone()
        values = [*model.graph.inputs, *model.graph.initializers.values()]
        for node in model.graph.all_nodes():
            values += node.outputs
        for value in values:
            if isinstance(value.type, ir.TensorType):
                value.type = ir.TensorType(value.type.dtype)
        return model

    def _sizes(self, model: onnx.ModelProto) -> dict[str, int]:
        """Return the sizes of the dynamic dimensions in the largest case."""
        feeds = max(self.references, key=_elements).feeds
        return {
            dim.dim_param: feeds[value.name].shape[axis]
            for value in model.graph.input
            if value.name in feeds
            for axis, dim in enumerate(value.type.tensor_type.shape.dim)
            if dim.dim_param
        }


def _elements(reference: Reference) -> int:
    return sum(array.size for array in reference.feeds.values())


def _is_float(value: ir.Value) -> bool:
    import onnx_ir as ir

    return value.dtype == ir.DataType.FLOAT
