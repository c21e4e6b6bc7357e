"""Runtimes `ort-cuda` and `ort-tensorrt`: ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from typing import Any

from hsm_operators.installation import find_library

from ..native import CUDA_OPS, TENSORRT_PLUGINS
from ..onnx_model.fusing import fusion
from .gpu import no_gpu
from .onnx_runtime import ContextRunner
from .runtime import RunContext, Runtime, missing_package
from .session import gpu_session

_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


def _available(provider: str) -> str | None:
    """Return None when ONNX Runtime has the provider and there is a GPU, else the reason why not."""
    reason = missing_package("onnxruntime", "'hsm-export[gpu]'")
    if reason:
        return reason
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {provider}; `pip uninstall onnxruntime; pip install 'hsm-export[gpu]'`"
    return no_gpu()


def _cuda_session(context: RunContext) -> Any:
    """Return a session that runs our CUDA kernels where this installation has them, else the function bodies."""
    return gpu_session(context.model, context.folder, _CUDA, {}, kernels=find_library(CUDA_OPS))


def _tensorrt_session(context: RunContext) -> Any:
    """Return a session whose engine may hold our plugins where this installation has them."""
    ours = find_library(TENSORRT_PLUGINS)
    plugins = [*filter(None, [ours]), *fusion(context.model, "tensorrt").libraries]
    settings = {"trt_extra_plugin_lib_paths": ";".join(map(str, plugins))} if plugins else {}
    return gpu_session(context.model, context.folder, _TENSORRT, settings)


ORT_CUDA = Runtime(
    name="ort-cuda",
    description="ONNX Runtime's CUDA provider, with the CUDA kernels where they are installed",
    available=lambda: _available(_CUDA),
    runner=lambda context: ContextRunner(context, lambda: _cuda_session(context), "ort-cuda"),
    notes=lambda model: fusion(model, "onnxruntime_cuda").notes,
)
ORT_TENSORRT = Runtime(
    name="ort-tensorrt",
    description="ONNX Runtime's TensorRT provider, with the plugins where they are installed",
    available=lambda: _available(_TENSORRT),
    runner=lambda context: ContextRunner(context, lambda: _tensorrt_session(context), "ort-tensorrt"),
)
