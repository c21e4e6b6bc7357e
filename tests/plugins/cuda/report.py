"""tools/cuda_report.py as a module, and the library that it reads."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.plugins.native import ROOT


def cuda_report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_report", ROOT / "tools" / "cuda_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_report"] = module
    spec.loader.exec_module(module)
    return module


def plugin_library() -> Path:
    """Return the installed TensorRT plugin library, which holds every CUDA kernel, or skip the test."""
    from hsm_export.errors import MissingDependencyError
    from hsm_export.native import tensorrt_plugin_path

    try:
        return tensorrt_plugin_path()
    except MissingDependencyError as error:
        pytest.skip(error.message)
