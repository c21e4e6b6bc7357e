"""Where a diff ran."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .results import Environment

_PACKAGES = (
    "hsm-export", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "polygraphy", "numpy", "tensorrt", "tensorrt_rtx",
)  # fmt: skip


def environment(command: str) -> Environment:
    """Return what this machine and installation are.

    Args:
        command: what the user typed, or "" from Python.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Environment(
        versions=versions,
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}",
        time=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat(),
        command=command,
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
