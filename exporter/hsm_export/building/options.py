"""Which options of a build contradict each other, their target or this machine."""

from __future__ import annotations

from pathlib import Path

from ..errors import BuildRefusedError, UsageError
from ..files import check_target as check_writable
from ..formats.build_options import EngineOptions
from .cuda_driver import probe
from .portable.compiling import HARDWARE_COMPATIBILITY


def check_options(options: EngineOptions, target: str) -> None:
    """Check that options fit each other and a target.

    Raises:
        UsageError: they contradict each other, or mean nothing for the target.
        BadInputError: the timing cache cannot be written where it is wanted.
    """
    if target == "tensorrt-rtx":
        _refuse_for_rtx(options)
    compatibility = options.hardware_compatibility
    if compatibility is not None and compatibility not in HARDWARE_COMPATIBILITY:
        raise UsageError(
            f"there is no hardware compatibility {compatibility!r}", f"choose among {', '.join(HARDWARE_COMPATIBILITY)}"
        )
    if options.embed_plugins and not options.use_plugins(target):
        raise UsageError("--embed-plugins and --no-plugins contradict each other", "leave one of them out")
    if options.embed_plugins and not options.version_compatible:
        raise UsageError(
            "TensorRT embeds plugin libraries only into version-compatible engines", "add --version-compatible"
        )
    if options.timing_cache is not None:
        check_writable(Path(options.timing_cache))


def _refuse_for_rtx(options: EngineOptions) -> None:
    given = {
        "--embed-plugins": options.embed_plugins,
        "--version-compatible": options.version_compatible,
        "--hardware-compatibility": options.hardware_compatibility is not None,
        "--timing-cache": options.timing_cache is not None,
    }
    unfit = [name for name, used in given.items() if used]
    if unfit:
        raise UsageError(
            f"{' and '.join(unfit)}: TensorRT-RTX has no such option, the GPU that runs an engine finishes it",
            "leave them out, or use --target tensorrt",
        )


def check_gpu_needs(options: EngineOptions, target: str) -> None:
    """Refuse what needs a GPU here: TensorRT-RTX 1.7 calls CUDA while it compiles a refittable or stripped engine.

    Raises:
        BuildRefusedError: such an engine is wanted, and there is no GPU.
    """
    flags = {"--strip-weights": options.strip_weights, "--refit": options.refit}
    wanted = " and ".join(flag for flag, given in flags.items() if given)
    if not wanted or target != "tensorrt-rtx":
        return
    driver = probe()
    if not driver.devices:
        raise BuildRefusedError(
            f"TensorRT-RTX builds engines with {wanted} only on a machine with a GPU, and {driver.reason}",
            f"leave {wanted} out, or build on a machine with an NVIDIA GPU",
        )
