"""ONNX Runtime sessions, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, UsageError
from ..onnx_model.fusing import fusion

if TYPE_CHECKING:
    import onnx

    import onnxruntime

# Folding a cast of a weight would keep a copy of it in the other type. The second one, left to itself, fails where the
# cast weight is read inside a Scan.
_LEAN_WITHOUT = ["ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer"]


LEVELS = {
    "0": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}


@dataclass(frozen=True)
class SessionSettings:
    """How ONNX Runtime prepares a graph.

    Attributes:
        level: what it optimises, a key of `LEVELS`.
        disabled: names of optimisers that it leaves out, such as "GeluFusionL2".
        provider: the execution provider that comes before the CPU's; "" is none.
    """

    level: str = "all"
    disabled: tuple[str, ...] = ()
    provider: str = ""

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> SessionSettings:
        """Read the options of a runtime's name.

        Raises:
            UsageError: there is no such level.
            MissingDependencyError: this ONNX Runtime has no such provider.
        """
        level, provider = options.get("level", "all"), options.get("provider", "")
        if level not in LEVELS:
            raise UsageError(f"there is no level {level!r} of optimisation", f"levels are {', '.join(LEVELS)}")
        if provider:
            import onnxruntime

            known = onnxruntime.get_available_providers()
            if provider not in known:
                raise MissingDependencyError(
                    f"this ONNX Runtime has no provider {provider!r}", f"its providers are {', '.join(known)}"
                )
        return cls(level, tuple(filter(None, options.get("disable", "").split("+"))), provider)


DEFAULT = SessionSettings()
# What the name of a runtime may say of them.
SESSION_OPTIONS = {
    "level": f"how much ONNX Runtime optimises: {', '.join(LEVELS)}",
    "disable": "optimisers that it leaves out, as in disable=GeluFusionL2+MatMulAddFusion",
    "provider": "the execution provider that comes before the CPU's",
}


def cpu_session(
    model: onnx.ModelProto,
    folder: Path,
    *,
    kernels: Path | None = None,
    lean: bool = False,
    settings: SessionSettings = DEFAULT,
    optimised: Path | None = None,
    spinning: bool = False,
    float_activations: bool = False,
) -> Any:
    """Make an ONNX Runtime session on the CPU.

    Args:
        model: the model; its external data is not loaded.
        folder: the directory that its external data is relative to.
        kernels: the custom-op library whose kernels run the nodes of domain `hsm`; operators of others then run with
            the kernels of their own libraries, where these are built. None runs all bodies.
        lean: keep no second copy of the weights, neither repacked nor in another type; the runs are slower.
        settings: how it prepares the graph.
        optimised: where it writes the graph that it made of it; None writes none.
        spinning: its idle threads spin, as ONNX Runtime's own default is: for what is called often and timed.
        float_activations: products with weights behind DequantizeLinear keep floats, which ONNX Runtime by itself may
            round to 8 bits. So it is for files that we quantised, whatever this says: their budget was proved so.

    Raises:
        MissingDependencyError: ONNX Runtime does not take the library, or another one is installed than the folder's
            bundle names.
    """
    import onnxruntime

    options = _options(model, folder, _all_kernels(model, folder, kernels, "onnxruntime"), float_activations)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[settings.level])
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if lean:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        sess_options=options,
        providers=list(filter(None, dict.fromkeys((settings.provider, "CPUExecutionProvider")))),
        disabled_optimizers=[*settings.disabled, *(_LEAN_WITHOUT if lean else ())],
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
        kernels: the custom-op library for the CUDA provider, with those of the operators of others; None runs the
            function bodies.

    Raises:
        MissingDependencyError: the provider does not start, in which case ONNX Runtime would use the CPU in silence;
            or ONNX Runtime does not take the library.
    """
    import onnxruntime

    # What TensorRT does not take runs on CUDA, and what that does not take on the CPU.
    others = {"CUDAExecutionProvider", "CPUExecutionProvider"} & set(onnxruntime.get_available_providers()) - {provider}
    providers = [(provider, settings), *sorted(others, reverse=True)]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        sess_options=_options(model, folder, _all_kernels(model, folder, kernels, "onnxruntime_cuda")),
        providers=providers,
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


def _all_kernels(model: onnx.ModelProto, folder: Path, own: Path | None, adapter: str) -> list[Path]:
    """Return our library and those of the operators of others; none without ours, where bodies are wanted."""
    from ..native import EMULATED_OPS
    from ..onnx_model.installed_libraries import named_by_bundle

    if own is None or own.name == EMULATED_OPS:
        return [own] if own else []
    with named_by_bundle(folder, adapter):
        return [own, *fusion(model, adapter).libraries]


def _options(
    model: onnx.ModelProto, folder: Path, kernels: Sequence[Path], float_activations: bool = False
) -> onnxruntime.SessionOptions:
    import onnxruntime

    from ..native import register
    from ..onnx_model.quantisation_record import is_ours

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is an exception too, which says the same
    options.intra_op_num_threads = thread_count()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if float_activations or is_ours(model):
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    for library in kernels:
        register(options, library)
    return options
