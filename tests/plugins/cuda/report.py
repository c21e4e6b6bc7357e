"""tools/cuda_report.py as a module."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from tests.plugins.native import ROOT


def cuda_report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_report", ROOT / "tools" / "cuda_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_report"] = module
    spec.loader.exec_module(module)
    return module
