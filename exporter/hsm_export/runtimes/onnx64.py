"""Runtime `onnx64`: the file's own maths in float64, the arbiter when there is no checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import onnx
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from .dequantising import with_plain_weights
from .double_precision import promote, spelled_out
from .metadata import graph_metadata
from .onnx_reference import ReferenceRunner
from .rounded_graph import rounded_graph
from .runtime import RunContext, Runtime, missing_package

EVALUATED = (
    "onnx64: ONNX Runtime lacks an operator of the file in double, so that onnx's own evaluator is the arbiter; "
    "it is slower, and less tried"
)


class DoubleRunner(BaseRunner):  # type: ignore[misc]
    """Runs a file with its bodies inlined and everything promoted to double.

    ONNX Runtime evaluates the graph; where it is not installed or lacks an operator in double (convolutions), onnx's
    reference evaluator does.

    Args:
        context: the run context whose graph inputs are fed.
        name: the runner's name in Polygraphy's results.
    """

    def __init__(self, context: RunContext, name: str) -> None:
        super().__init__(name=name)
        self._context = context

    def activate_impl(self) -> None:
        from hsm_operators import inline

        rounded = rounded_graph(self._context.model, self._context.rounding)
        promoted = promote(spelled_out(inline(rounded)), self._context.folder)
        self._promoted = with_plain_weights(*promoted)
        self._inner: Any = self._onnx_runtime(*self._promoted) or self._evaluator()

    def _evaluator(self) -> ReferenceRunner:
        self._context.remarks.add(EVALUATED)
        model, weights = self._promoted
        runner = ReferenceRunner(self._context, model, self.name, weights)
        runner.activate()
        return runner

    def _onnx_runtime(self, model: onnx.ModelProto, weights: dict[str, Any]) -> Any:
        """Return an active ONNX Runtime runner, or None when it is not installed or lacks an operator in double."""
        if missing_package("onnxruntime", "onnxruntime"):
            return None
        from .onnx_runtime import ContextRunner
        from .session import cpu_session

        runner = ContextRunner(self._context, lambda: cpu_session(model, self._context.folder), self.name, weights)
        try:
            runner.activate()
        except Exception:  # an operator that it lacks in double; its exceptions share no base class but Exception
            return None
        return runner

    @property
    def is_evaluator(self) -> bool:
        """Whether onnx's evaluator computes, and not ONNX Runtime."""
        return isinstance(self._inner, ReferenceRunner)

    def deactivate_impl(self) -> None:
        self._inner.deactivate()
        del self._inner, self._promoted

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        try:
            outputs: OrderedDict[str, Any] = self._inner.infer(feed_dict, check_inputs=False)
        except Exception:
            # Some kernels say only when they run that they compute no doubles.
            if self.is_evaluator:
                raise
            self._inner.deactivate()
            self._inner = self._evaluator()
            outputs = self._inner.infer(feed_dict, check_inputs=False)
        self.inference_time = self._inner.inference_time
        return outputs


ONNX64 = Runtime(
    name="onnx64",
    description="the ONNX file's own maths in float64, the arbiter when there is no checkpoint",
    available=lambda: None,
    runner=lambda context: DoubleRunner(context, "onnx64"),
)
