"""The tools that write docs/cuda-report.md as modules, and the library that they read."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.plugins.native import ROOT


def tool(name: str) -> ModuleType:
    """Return a program of tools/ as a module; those that it imports lie beside it."""
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def cuda_report() -> ModuleType:
    return tool("cuda_report")


def plugin_library() -> Path:
    """Return the installed TensorRT plugin library, which holds every CUDA kernel, or skip the test."""
    from hsm_export.errors import MissingDependencyError
    from hsm_export.native import tensorrt_plugin_path

    try:
        return tensorrt_plugin_path()
    except MissingDependencyError as error:
        pytest.skip(error.message)
