"""Runtime `onnx-reference`: onnx's own Python evaluator, from the function bodies."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..onnx_model.nodes import opset_of
from .borrowing import BorrowingEvaluator, borrowed_remark
from .evaluator import operators
from .metadata import graph_metadata, typed_feed
from .named_outputs import named_outputs
from .portable_model import with_weights
from .runtime import RunContext, Runtime


class ReferenceRunner(BaseRunner):  # type: ignore[misc]
    """Runs a graph in onnx's evaluator, and in ONNX Runtime what that lacks.

    Args:
        context: the run context whose graph inputs are fed.
        model: what to evaluate: the context's graph, or a rewritten copy of it.
        name: the runner's name in Polygraphy's results.
        weights: further inputs, the same in every call.
    """

    def __init__(
        self, context: RunContext, model: onnx.ModelProto, name: str, weights: dict[str, Any] | None = None
    ) -> None:
        super().__init__(name=name)
        self._context = context
        self._model = model
        self._weights = weights or {}

    def activate_impl(self) -> None:
        from hsm_operators import inline

        # A run that is rounded at random goes another of the ways that right implementations may go, too.
        order = self._context.summation or self._context.rounding
        # The evaluator does not use given operators inside functions, and wants those first that others call.
        model = inline(self._model, known=bool(order))
        whole = with_weights(model, self._context.folder)
        self._evaluator = BorrowingEvaluator(whole, new_ops=operators(order, opset_of(self._model)))

    def deactivate_impl(self) -> None:
        del self._evaluator

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        feed = typed_feed(self._model, feed_dict)
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            results: Any = self._evaluator.run(None, {**feed, **self._weights})
        self.inference_time = time.perf_counter() - start
        if self._evaluator.borrowed:
            self._context.remarks.add(borrowed_remark(self.name, self._evaluator.borrowed))
        names = [output.name for output in self._model.graph.output]
        results = [
            # The evaluator keeps what an optional holds in a list.
            value[0] if isinstance(value, list) and len(value) == 1 and _is_wrapped(output, value) else value
            for value, output in zip(results, self._model.graph.output, strict=True)
        ]
        return OrderedDict((name, _plain(array)) for name, array in named_outputs(names, results).items())


def _is_wrapped(output: onnx.ValueInfoProto, value: list[Any]) -> bool:
    """Whether a list is what the evaluator keeps an optional in, and not a sequence."""
    kind = output.type
    if kind.HasField("optional_type"):
        return isinstance(value[0], list) or bool(kind.optional_type.elem_type.HasField("tensor_type"))
    return bool(kind.HasField("tensor_type"))


def _plain(array: Any) -> Any:
    """Return the array in a type of NumPy's own: float32 holds every bfloat16 exactly."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


ONNX_REFERENCE = Runtime(
    name="onnx-reference",
    description="onnx's own Python evaluator, from the function bodies",
    available=lambda: None,
    runner=lambda context: ReferenceRunner(context, context.model, "onnx-reference"),
)
