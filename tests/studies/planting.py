"""Runtimes in which one node of the graph is wrong: ONNX Runtime on a graph that adds a pattern to its result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hsm_export.onnx_model.nodes import graphs_of
from hsm_export.runtimes import get, onnx_runtime, ort_fused
from hsm_export.runtimes.runtime import RunContext, Runtime

Array = NDArray[Any]

_TYPES: dict[str, Any] = {
    "int64": np.int64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
_HOMES: dict[str, tuple[Any, str]] = {"ort": (onnx_runtime, "ORT"), "ort-fused": (ort_fused, "ORT_FUSED")}


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        tensor: the result that is, also inside a branch or a loop, every iteration of it.
        dtype: its type: "float32", "float16" or "bfloat16".
        pattern: what is added to it, of its shape.
    """

    tensor: str
    dtype: str
    pattern: Array

    def plant(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a copy of a model in which the node's result is off; the tensor keeps its name."""
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for graph in graphs_of(changed.graph):
            for node in list(graph.node):
                for place, name in enumerate(node.output):
                    if name == self.tensor or name.endswith(f"/{self.tensor}"):
                        self._damage(graph, node, place)
        return changed  # as it was, where it is a part of the graph without the node

    def _damage(self, graph: onnx.GraphProto, node: onnx.NodeProto, place: int) -> None:
        name = node.output[place]
        node.output[place] = f"{name} without fault"
        pattern = numpy_helper.from_array(self.pattern.astype(_TYPES[self.dtype]), f"{name} fault")
        graph.initializer.append(pattern)
        added = helper.make_node("Add", [node.output[place], pattern.name], [name], pattern.name)
        graph.node.insert(list(graph.node).index(node) + 1, added)


@contextlib.contextmanager
def planted(faults: Mapping[str, Fault]) -> Iterator[None]:
    """Give each named runtime ("ort", "ort-fused") a fault for as long as this lasts."""
    with contextlib.ExitStack() as stack:
        for name, fault in faults.items():
            module, attribute = _HOMES[name]
            stack.enter_context(mock.patch.object(module, attribute, _faulty(get(name), fault)))
        yield


def _faulty(runtime: Runtime, fault: Fault) -> Runtime:
    def runner(context: RunContext) -> Any:
        return runtime.runner(replace(context, model=fault.plant(context.model)))

    return replace(runtime, runner=runner)
