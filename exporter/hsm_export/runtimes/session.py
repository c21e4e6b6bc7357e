"""ONNX Runtime sessions on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def cpu_session(model: onnx.ModelProto, folder: Path, *, kernels: Path | None = None, lean: bool = False) -> Any:
    """Make an ONNX Runtime session on the CPU.

    Args:
        model: the model; its external data is not loaded.
        folder: the directory that its external data is relative to.
        kernels: the custom-op library whose kernels run the nodes of domain `hsm`; None runs their bodies.
        lean: keep no second copy of the weights, neither repacked nor in another type; the runs are slower.

    Raises:
        MissingDependencyError: ONNX Runtime does not take the library.
    """
    import onnxruntime

    from ..native import register

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(len(os.sched_getaffinity(0)), int(os.environ.get("OMP_NUM_THREADS", "64")))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if kernels:
        register(options, kernels)
    if lean:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        sess_options=options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["ConstantFolding"] if lean else [],
    )
