"""What each builder can target: GPU architectures, and which of them cannot take a network."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence

from ..errors import BuildRefusedError, MissingDependencyError, UsageError
from .cuda_driver import probe

TARGETS = ("tensorrt-rtx", "tensorrt")
MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
PRODUCTS = {"tensorrt-rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
EXTRAS = {"tensorrt-rtx": "rtx", "tensorrt": "tensorrt"}

ARCHITECTURES = {
    "sm75": "Turing: RTX 20, GTX 16, T4",
    "sm80": "Ampere: A100, A30",
    "sm86": "Ampere: RTX 30, A10, A40",
    "sm89": "Ada: RTX 40, L4, L40",
    "sm120": "Blackwell: RTX 50, RTX PRO",
    "sm121": "Blackwell: DGX Spark",
}
DEFAULT_ARCHITECTURES = ("sm80", "sm86", "sm89", "sm120")

_NOT_OFFERED = {
    "sm50": "Maxwell",
    "sm52": "Maxwell",
    "sm60": "Pascal",
    "sm61": "Pascal",
    "sm70": "Volta (V100)",
    "sm72": "Xavier",
    "sm87": "Jetson Orin",
    "sm90": "Hopper (H100, H200)",
    "sm100": "data-centre Blackwell (B200)",
    "sm101": "Thor",
    "sm103": "data-centre Blackwell (B300)",
    "sm110": "Thor",
}


def parse_architectures(architectures: str | Iterable[str]) -> tuple[str, ...]:
    """Return architecture names in their canonical spelling (`sm86`), sorted and without repetitions.

    Args:
        architectures: names such as "sm86", "86" or "8.6", in a sequence or separated by commas.

    Raises:
        UsageError: none is given, or a name is not an NVIDIA architecture.
        BuildRefusedError: TensorRT-RTX does not build for that architecture.
    """
    names = architectures.split(",") if isinstance(architectures, str) else list(architectures)
    found = {_architecture(name.strip()) for name in names if name.strip()}
    if not found:
        raise UsageError("no architecture is given", f"choose among {', '.join(ARCHITECTURES)}")
    return tuple(sorted(found, key=_number))


def _architecture(name: str) -> str:
    match = re.fullmatch(r"(?:sm|compute)?[_-]?(\d{1,2})\.?(\d)a?", name.lower())
    canonical = f"sm{match.group(1)}{match.group(2)}" if match else name
    if canonical in _NOT_OFFERED:
        raise BuildRefusedError(
            f"TensorRT-RTX does not build for {canonical}, {_NOT_OFFERED[canonical]}; it offers "
            f"{', '.join(ARCHITECTURES)}",
            "use `--target tensorrt` on a machine with that GPU, or run the ONNX file in ONNX Runtime",
        )
    if canonical not in ARCHITECTURES:
        raise UsageError(
            f"{name!r} is not a GPU architecture that is known here", f"choose among {', '.join(ARCHITECTURES)}"
        )
    return canonical


def _number(architecture: str) -> int:
    return int(architecture.removeprefix("sm"))


def check_architectures(architectures: Sequence[str], operators_by_type: dict[str, set[str]]) -> None:
    """Refuse architectures that cannot take the network.

    Args:
        architectures: canonical names.
        operators_by_type: for each ONNX element type of an operator's first input ("float32", "bfloat16", ...) the
            operators that the network (function bodies inlined) applies to it.

    Raises:
        BuildRefusedError: Turing is among them and the network multiplies fp32 matrices or uses bf16.
    """
    if "sm75" not in architectures:
        return
    if "bfloat16" in operators_by_type:
        raise BuildRefusedError(
            "sm75 (Turing) has no bf16 arithmetic, and the model is in bf16",
            "leave sm75 out of --arch, or export with --precision fp16",
        )
    products = sorted(operators_by_type.get("float32", set()) & {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
    if products:
        raise BuildRefusedError(
            f"TensorRT-RTX has no fp32 matrix products on sm75 (Turing), and the model applies {', '.join(products)} "
            "to fp32 tensors",
            "leave sm75 out of --arch; exporting with --precision fp16 helps only where no mixer accumulates in fp32",
        )


def check_known(target: str) -> None:
    """Raise UsageError when there is no such target."""
    if target not in TARGETS:
        raise UsageError(f"there is no target {target!r}", f"choose among {', '.join(TARGETS)}")


def check_target(target: str) -> None:
    """Check that the builder of a target is installed, and for TensorRT that a GPU is there.

    Raises:
        UsageError: the target is unknown.
        MissingDependencyError: the builder or the GPU is missing.
    """
    check_known(target)
    missing = [name for name in (MODULES[target], "onnx") if importlib.util.find_spec(name) is None]
    hints = []
    if missing:
        hints.append(f"pip install 'hsm-export[{EXTRAS[target]}]'")
    if target == "tensorrt":
        missing += _missing_gpu(hints)
        hints.append("or build with `--target tensorrt-rtx`, which needs no GPU")
    if missing:
        raise MissingDependencyError(
            f"building for {PRODUCTS[target]} needs {' and '.join(missing)}, not found here", "; ".join(hints)
        )


def _missing_gpu(hints: list[str]) -> list[str]:
    driver = probe()
    if driver.devices:
        return []
    hints.append("run on a machine with an NVIDIA GPU, because TensorRT times its kernels on the GPU it builds for")
    return [f"an NVIDIA GPU ({driver.reason})"]
