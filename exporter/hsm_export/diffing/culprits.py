"""Nodes at fault: named in a runtime's report, with what shows it, and written out alone where that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import BY_NAME
from ..files import file_name
from ..runtimes import get
from .outputs import noise_between
from .remarks import joined, word_of
from .repro import write_repro
from .results import Culprit, LayerDiff, RuntimeDiff

if TYPE_CHECKING:
    from ..runtimes.runtime import RunContext
    from .api import Diff
    from .layers.graph import LayerGraph
    from .layers.spool import Spool

FILE = "onnx64"  # the file itself, in float64


class Culprits:
    """Names nodes at fault in the reports of a diff.

    Args:
        diff: the diff.
        graph: its file's graph, and `context`, how it is run: without the control flow that was taken apart.
        lengths: the numbers of valid tokens in the inputs; None where the file takes none.
    """

    def __init__(self, diff: Diff, graph: LayerGraph, context: RunContext, lengths: Any) -> None:
        self._diff = diff
        self._graph = graph
        self._context = context
        self._lengths = lengths

    def name(
        self,
        runtime: str,
        item: LayerDiff,
        indices: tuple[int, ...],
        consequences: int,
        inputs: Mapping[str, Any] | None,
        expected: Mapping[str, Any],
    ) -> None:
        """Name a node, and write it out where that was asked for."""
        node = self._graph.model.graph.node[indices[-1]]
        known = {key: array for key, array in (inputs or {}).items() if array is not None}
        attributes = self._graph.layer_at[indices[0]].attributes if len(indices) == 1 else {}
        fused = joined(runtime, item.node, self._graph, self._context) if len(indices) == 1 else ""
        if fused:
            item = replace(item, reason=f"{item.reason}; fusion: {fused}")
        culprit = Culprit(
            runtime=runtime,
            layer=item,
            attributes=attributes,
            input_shapes={key: tuple(array.shape) for key, array in known.items()},
            consequences=consequences,
            word=word_of(runtime, item, fused, self._graph, self._context.folder),
        )
        folder = self._diff.options.repro
        right = {key: array for key, array in expected.items() if array is not None}
        if folder is not None and known:
            model = self._graph.extract(indices, tuple(right))
            name = file_name(f"{runtime}.{item.node or node.name}")
            path, command = write_repro(
                Path(folder), name, model, self._context.folder, known, right,
                precision=self._context.precision, runtime="onnx64" if runtime == FILE else runtime,
            )  # fmt: skip
            culprit = replace(culprit, repro=str(path), command=command)
        report = self._diff.reports.get(runtime, RuntimeDiff(runtime, "same"))
        reason = report.reason if report.verdict == "differs" else culprit.line
        self._diff.reports[runtime] = replace(report, culprit=culprit, verdict="differs", reason=reason)

    def name_unstable(self, name: str, first: Spool, second: Spool) -> None:
        """Name the first node that gives two results for the same inputs; at fault when they differ too much."""
        report = self._diff.reports[name]
        for item in report.layers:
            layer = self._graph.layer_at[item.index]
            a, b = first.read(item.tensor, item.index), second.read(item.tensor, item.index)
            if _same(a, b) or not all(
                _same(first.read(key, item.index), second.read(key, item.index)) for key in layer.inputs
            ):
                continue
            assert a is not None and b is not None
            counted = self._graph.specified(item.tensor, a, self._lengths)
            gap = noise_between({item.tensor: a}, {item.tensor: b}, {item.tensor: counted})
            if gap == 0:
                continue
            note = f"{item.node} ({item.operator}) gives two results for the same inputs, up to {gap:.3g} apart"
            self._diff.reports[name] = replace(report, notes=(*report.notes, note))
            if item.threshold is not None and gap > item.threshold.value and report.culprit is None:
                unstable = replace(item, reason=f"two results for the same inputs, {gap:.3g} apart")
                inputs = {key: first.read(key, item.index) for key in layer.inputs}
                expected = self.right_results(item.index, layer.outputs, inputs)
                self.name(name, unstable, (item.index,), 0, inputs, expected)
            return

    def is_mask(self, item: LayerDiff, spool: Spool | None) -> bool:
        """Say whether a node overflows because it read numbers at the edge of its type, as masks hold."""
        if spool is None or not str(item.reason).startswith("overflow"):
            return False
        edge = BY_NAME[item.dtype].most / 2
        arrays = [spool.read(key, item.index) for key in self._graph.layer_at[item.index].inputs]
        return any(array is not None and array.dtype.kind == "f" and np.abs(array).max() >= edge for array in arrays)

    def right_results(self, index: int, outputs: tuple[str, ...], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        from .layers.tapping import single

        known = {key: array for key, array in inputs.items() if array is not None}
        return single(get(FILE), self._context, self._graph.extract([index], outputs), known)


def _same(first: Any, second: Any) -> bool:
    if first is None or second is None or first.shape != second.shape:
        return first is second
    return bool(np.array_equal(first, second, equal_nan=first.dtype.kind == "f"))
