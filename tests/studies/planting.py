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
        tensor: the result that is.
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
        for index, node in enumerate(changed.graph.node):
            if self.tensor in node.output:
                place = list(node.output).index(self.tensor)
                node.output[place] = f"{self.tensor} without fault"
                pattern = numpy_helper.from_array(self.pattern.astype(_TYPES[self.dtype]), f"{self.tensor} fault")
                changed.graph.initializer.append(pattern)
                added = helper.make_node("Add", [node.output[place], pattern.name], [self.tensor], pattern.name)
                changed.graph.node.insert(index + 1, added)
                return changed
        return changed  # a part of the graph without the node


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
