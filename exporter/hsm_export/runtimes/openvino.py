"""Runtime `openvino`: OpenVINO on the CPU, from the file's bodies in ONNX's own operators."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..errors import UsageError
from .metadata import graph_metadata, typed_feed
from .portable_model import portable_model
from .runtime import RunContext, Runtime, missing_package
from .session import thread_count

# By itself OpenVINO computes in bfloat16 on processors that can, whatever the file says.
_PRECISIONS = ("f32", "bf16", "f16", "auto")


class OpenVINORunner(BaseRunner):  # type: ignore[misc]
    """Runs a file in OpenVINO on the CPU.

    Args:
        context: the run context whose graph inputs are fed.
        precision: in which OpenVINO may compute; "auto" leaves it the choice.
    """

    def __init__(self, context: RunContext, precision: str) -> None:
        super().__init__(name="openvino")
        self._context = context
        self._precision = precision

    def activate_impl(self) -> None:
        import openvino

        core = openvino.Core()
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": thread_count()}
        if self._precision != "auto":
            settings["INFERENCE_PRECISION_HINT"] = self._precision
        whole = portable_model(self._context.model, self._context.folder)
        model = core.read_model(whole.SerializeToString(), b"")
        self._compiled = core.compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._inputs = {name: port for port in self._compiled.inputs for name in port.get_names()}
        self._outputs = {name: index for index, port in enumerate(self._compiled.outputs) for name in port.get_names()}

    def deactivate_impl(self) -> None:
        del self._request, self._compiled, self._inputs, self._outputs

    @property
    def computes_in(self) -> str:
        """The type in which OpenVINO computes, as it says itself, such as "f32"."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        feed = typed_feed(self._context.model, feed_dict)
        ports = {port: feed[name] for name, port in self._inputs.items() if name in feed}
        start = time.perf_counter()
        self._request.infer(ports)
        self.inference_time = time.perf_counter() - start
        names = [output.name for output in self._context.model.graph.output]
        return OrderedDict(
            (name, np.array(self._request.get_output_tensor(self._outputs[name]).data)) for name in names
        )


def _openvino(precision: str) -> Runtime:
    return Runtime(
        name="openvino",
        description="OpenVINO on the CPU in float32, from the bodies in ONNX's own operators",
        available=lambda: missing_package("openvino", "openvino"),
        runner=lambda context: OpenVINORunner(context, precision),
        options={"precision": f"in which it may compute: {', '.join(_PRECISIONS)} (its own choice)"},
        configure=_configured,
    )


def _configured(options: Mapping[str, str]) -> Runtime:
    precision = options.get("precision", "f32")
    if precision not in _PRECISIONS:
        raise UsageError(f"OpenVINO does not compute in {precision!r}", f"precisions are {', '.join(_PRECISIONS)}")
    described = f"OpenVINO on the CPU, which may compute in {precision}, from the bodies in ONNX's own operators"
    return replace(_openvino(precision), description=described)


OPENVINO = _openvino("f32")
