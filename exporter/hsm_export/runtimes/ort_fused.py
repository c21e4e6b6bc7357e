"""Runtime `ort-fused`: ONNX Runtime on the CPU, with the fused kernels of libhsm_onnxruntime."""

from __future__ import annotations

from .bfloat16 import widen_bfloat16
from .onnx_runtime import ContextRunner
from .runtime import RunContext, Runtime, missing_package
from .session import cpu_session


def _available() -> str | None:
    """Return None when ONNX Runtime takes the library, else the reason why not."""
    from ..errors import MissingDependencyError
    from ..native import register

    reason = missing_package("onnxruntime", "'hsm-export[cpu]'")
    if reason:
        return reason
    import onnxruntime

    try:
        register(onnxruntime.SessionOptions())
    except MissingDependencyError as error:
        return f"{error.message}; {error.hint}"
    return None


def _runner(context: RunContext) -> ContextRunner:
    model = widen_bfloat16(context.model) if context.precision == "bf16" else context.model
    return ContextRunner(context, lambda: cpu_session(model, context.folder, fused=True), "ort-fused")


ORT_FUSED = Runtime(
    name="ort-fused",
    description="ONNX Runtime on the CPU, with the fused kernels",
    available=_available,
    runner=_runner,
)
