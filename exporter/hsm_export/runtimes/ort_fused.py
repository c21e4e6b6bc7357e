"""ONNX Runtime with our kernels: `ort-fused` with the CPU's, `cuda-emulated` with the CUDA sources run on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..native import custom_ops_path, emulated_ops_path, register
from ..onnx_model.bfloat16 import runnable
from ..onnx_model.fusing import all_bodies, fusion
from .onnx_runtime import ContextRunner
from .runtime import RunContext, Runtime, missing_package, no_notes
from .session import cpu_session

if TYPE_CHECKING:
    import onnx


def _runtime(
    name: str,
    description: str,
    library: Callable[[], Path],
    notes: Callable[[onnx.ModelProto], Sequence[str]] = no_notes,
    *,
    by_default: bool,
) -> Runtime:
    def available() -> str | None:
        """Return None when ONNX Runtime takes the library, else the reason why not."""
        from ..errors import MissingDependencyError

        reason = missing_package("onnxruntime", "'hsm-export[cpu]'")
        if reason:
            return reason
        import onnxruntime

        try:
            register(onnxruntime.SessionOptions(), library())
        except MissingDependencyError as error:
            return f"{error.message}; {error.hint}"
        return None

    def runner(context: RunContext) -> ContextRunner:
        model = runnable(context.model, context.precision)

        def session() -> Any:
            return cpu_session(model, context.folder, kernels=library(), spinning=context.timed)

        return ContextRunner(context, session, name)

    return Runtime(name, description, available, runner, by_default=by_default, notes=notes)


ORT_FUSED = _runtime(
    "ort-fused",
    "ONNX Runtime on the CPU, with the fused kernels",
    custom_ops_path,
    lambda model: fusion(model, "onnxruntime").notes,
    by_default=True,
)
CUDA_EMULATED = _runtime(
    "cuda-emulated",
    "the CUDA kernels' source, run thread by thread on the CPU: slow, for tests",
    emulated_ops_path,
    lambda model: all_bodies(model, "our own CUDA kernels alone are in it; `hsm-export operator test` runs others"),
    by_default=False,
)
