"""Export PyTorch models with HSM, TaylorShift, SwitchHead or your own mixers, and prove that every runtime agrees.

Every CLI command is a function of the same name here; each returns a typed result. `operator` adds an operator of one's
own, which all of them know from then on. `session` runs a file with the fused
CPU kernels, and `custom_ops_path` and `cmake_prefix_path` say where they are:

    import hsm_export
    hsm_export.export("zoo:hsm-lm", output="hsm-lm.onnx")
    assert hsm_export.validate("hsm-lm.onnx", against="zoo:hsm-lm").passed

Public names are imported at their first use, so that `import hsm_export` stays quick. Their list is `__init__.pyi`,
where type checkers look for them too.
"""

from __future__ import annotations

import ast
import importlib
import os
from pathlib import Path
from typing import Any

# ONNX Runtime reports home and keeps a store in the user's folder from version 1.31 on, unless this is set before it is
# imported. Who sets the variable himself is left alone.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Public name -> its module and its name there.
_HOMES = {
    name.asname or name.name: ("." * statement.level + (statement.module or ""), name.name)
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for name in statement.names
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Import the module behind a public name at its first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("hsm-export")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own_name = _HOMES[name]
    return getattr(importlib.import_module(module, __name__), own_name)


def __dir__() -> list[str]:
    return __all__
