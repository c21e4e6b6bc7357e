"""Runtime `ort`: ONNX Runtime on the CPU, from the function bodies."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import numpy as np
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata

from ..onnx_model.bfloat16 import runnable
from .metadata import graph_metadata
from .named_outputs import named_outputs
from .runtime import RunContext, Runtime, missing_package
from .session import DEFAULT, SESSION_OPTIONS, SessionSettings, cpu_session


class ContextRunner(OnnxrtRunner):  # type: ignore[misc]
    """An ONNX Runtime session that takes the inputs of a context's graph and casts them to its own types.

    Args:
        context: the run context whose graph inputs are fed.
        session: returns the `onnxruntime.InferenceSession`.
        name: the runner's name in Polygraphy's results.
        weights: further inputs, the same in every call.
    """

    def __init__(self, context: RunContext, session: Any, name: str, weights: dict[str, Any] | None = None) -> None:
        super().__init__(session, name=name)
        self._context = context
        self._weights = weights or {}

    def activate_impl(self) -> None:
        super().activate_impl()
        declared = OnnxrtRunner.get_input_metadata_impl(self)
        self._types = {name: item.dtype.numpy() for name, item in declared.items() if item.dtype is not None}

    def deactivate_impl(self) -> None:
        super().deactivate_impl()
        del self._types

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        feed = {name: np.asarray(array).astype(self._types[name], copy=False) for name, array in feed_dict.items()}
        names = [output.name for output in self.sess.get_outputs()]
        # Not the runner's own method, which imports torch to see whether the arrays are tensors.
        start = time.perf_counter()
        outputs = self.sess.run(names, {**feed, **self._weights})
        self.inference_time = time.perf_counter() - start
        return named_outputs(names, outputs)


def onnx_runtime(settings: SessionSettings = DEFAULT) -> Runtime:
    """Return ONNX Runtime on the CPU, with the graph prepared in some way."""

    def runner(context: RunContext) -> ContextRunner:
        model = runnable(context.model, context.precision)

        def session() -> Any:
            return cpu_session(model, context.folder, settings=settings, spinning=context.timed)

        return ContextRunner(context, session, "ort")

    return Runtime(
        name="ort",
        description="ONNX Runtime on the CPU, from the function bodies",
        available=lambda: missing_package("onnxruntime", "'hsm-export[cpu]'"),
        runner=runner,
        session=settings,
        options=SESSION_OPTIONS,
        configure=lambda options: onnx_runtime(SessionSettings.parse(options)),
    )


ORT = onnx_runtime()
