"""Runtime `ort`: ONNX Runtime on the CPU, from the function bodies."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import onnx
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata

from .bfloat16 import widen_bfloat16
from .runtime import RunContext, Runtime, missing_package
from .torch_module import graph_metadata


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

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        declared = OnnxrtRunner.get_input_metadata_impl(self)
        feed = {
            name: np.asarray(array).astype(declared[name].dtype.numpy(), copy=False)
            for name, array in feed_dict.items()
        }
        outputs: OrderedDict[str, Any] = OnnxrtRunner.infer_impl(self, {**feed, **self._weights})
        return outputs


def session(model: onnx.ModelProto, context: RunContext) -> Any:
    """Make an ONNX Runtime session on the CPU; external data is read from the context's folder."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(len(os.sched_getaffinity(0)), int(os.environ.get("OMP_NUM_THREADS", "64")))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(context.folder))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _runner(context: RunContext) -> ContextRunner:
    model = widen_bfloat16(context.model) if context.precision == "bf16" else context.model
    return ContextRunner(context, lambda: session(model, context), "ort")


ORT = Runtime(
    name="ort",
    description="ONNX Runtime on the CPU, from the function bodies",
    available=lambda: missing_package("onnxruntime", "'hsm-export[cpu]'"),
    runner=_runner,
)
