"""ONNX Runtime sessions, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError

if TYPE_CHECKING:
    import onnx

    import onnxruntime

# Folding a cast of a weight would keep a copy of it in the other type. The second one, left to itself, fails where the
# cast weight is read inside a Scan.
_LEAN_WITHOUT = ["ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer"]


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

    options = _options(folder, kernels)
    if lean:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        sess_options=options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_LEAN_WITHOUT if lean else [],
    )


def gpu_session(
    model: onnx.ModelProto, folder: Path, provider: str, settings: dict[str, str], *, kernels: Path | None = None
) -> Any:
    """Make an ONNX Runtime session on the first GPU.

    Args:
        model: the model; its external data is not loaded.
        folder: the directory that its external data is relative to.
        provider: "CUDAExecutionProvider" or "TensorrtExecutionProvider".
        settings: the provider's options.
        kernels: the custom-op library for the CUDA provider; None runs the function bodies.

    Raises:
        MissingDependencyError: the provider does not start, in which case ONNX Runtime would use the CPU in silence;
            or ONNX Runtime does not take the library.
    """
    import onnxruntime

    # What TensorRT does not take runs on CUDA, and what that does not take on the CPU.
    others = {"CUDAExecutionProvider", "CPUExecutionProvider"} & set(onnxruntime.get_available_providers()) - {provider}
    providers = [(provider, settings), *sorted(others, reverse=True)]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), sess_options=_options(folder, kernels), providers=providers
    )
    if provider not in session.get_providers():
        raise MissingDependencyError(
            f"ONNX Runtime {onnxruntime.__version__} could not start its {provider}",
            "install the CUDA, cuDNN and TensorRT versions that this onnxruntime-gpu was built for",
        )
    return session


def thread_count() -> int:
    """Return the threads of a run: one for each core that this process may use, no more than OMP_NUM_THREADS."""
    return min(len(os.sched_getaffinity(0)), int(os.environ.get("OMP_NUM_THREADS", "64")))


def _options(folder: Path, kernels: Path | None) -> onnxruntime.SessionOptions:
    import onnxruntime

    from ..native import register

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = thread_count()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if kernels:
        register(options, kernels)
    return options
