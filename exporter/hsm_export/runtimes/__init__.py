"""Every runtime that can run an exported file, behind one interface: Polygraphy runners.

A new runtime is one module that defines a `Runtime`, and one line in `_HOMES` below; validation needs no change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from .runtime import Runtime

# Name of the runtime -> module and attribute; the order is the order of reports.
_HOMES = {
    "torch64": ("torch_module", "TORCH64"),
    "onnx64": ("onnx64", "ONNX64"),
    "torch": ("torch_module", "TORCH"),
    "torch-compile": ("torch_compile", "TORCH_COMPILE"),
    "onnx-reference": ("onnx_reference", "ONNX_REFERENCE"),
    "ort": ("onnx_runtime", "ORT"),
    "ort-fused": ("ort_fused", "ORT_FUSED"),
    "cpp": ("cpp", "CPP"),
    "cuda-emulated": ("ort_fused", "CUDA_EMULATED"),
    "ort-cuda": ("ort_gpu", "ORT_CUDA"),
    "ort-tensorrt": ("ort_gpu", "ORT_TENSORRT"),
    "tensorrt": ("engine", "TENSORRT"),
    "tensorrt-rtx": ("engine", "TENSORRT_RTX"),
}

__all__ = ["get", "names"]


def names() -> tuple[str, ...]:
    """Return the names of all runtimes, whether or not they work on this machine."""
    return tuple(_HOMES)


def get(name: str) -> Runtime:
    """Return a runtime by name.

    Raises:
        UsageError: no runtime has that name.
    """
    if name not in _HOMES:
        raise UsageError(f"there is no runtime {name!r}", f"known runtimes are {', '.join(_HOMES)}")
    module, attribute = _HOMES[name]
    runtime: Runtime = getattr(importlib.import_module(f".{module}", __name__), attribute)
    return runtime
