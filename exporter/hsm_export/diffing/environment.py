"""Where a diff ran."""

from __future__ import annotations

import datetime
import os
import platform

from ..machine import processor, versions
from .results import Environment

_PACKAGES = (
    "hsm-export", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "polygraphy", "numpy", "tensorrt", "tensorrt_rtx",
)  # fmt: skip


def environment(command: str) -> Environment:
    """Return what this machine and installation are.

    Args:
        command: what the user typed, or "" from Python.
    """
    return Environment(
        versions={"python": platform.python_version(), **versions(*_PACKAGES)},
        processor=processor(),
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}",
        time=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat(),
        command=command,
    )
