"""PyTorch models with HSM, TaylorShift and SwitchHead mixers, and with mixers of yours; knows nothing of ONNX.

    import hsm_models
    model = hsm_models.load_checkpoint("zoo:hsm-lm")
    logits = model(tokens)

Public names are imported at their first use, so that `import hsm_models` stays quick. Their list is `__init__.pyi`,
where type checkers look for them too.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

_HOMES = {
    name.name: f"{__name__}.{statement.module}"
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for name in statement.names
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Import the module behind a public name at its first use."""
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hsm-export")
    except PackageNotFoundError:
        return "0+unknown"
