"""Imports go down only, those inside functions too: hsm_export stands on hsm_models, that on hsm_operators."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each package with its folder and those of ours that it may import.
MAY_IMPORT = {
    "hsm_operators": ("plugins/hsm_operators", set[str]()),
    "hsm_models": ("models/hsm_models", {"hsm_operators"}),
    "hsm_export": ("exporter/hsm_export", {"hsm_operators", "hsm_models"}),
}


def _imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere, also for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_stands_on(package: str) -> None:
    folder, allowed = MAY_IMPORT[package]
    forbidden = set(MAY_IMPORT) - {package} - allowed
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): found for path in files if (found := _imported(path) & forbidden)}
    assert not wrong


def test_the_ground_floor_imports_no_framework_at_its_start() -> None:
    """An operator is read without PyTorch and without ONNX: the commands start quickly."""
    for name in ("__init__", "operator", "expression", "registry", "translation"):
        tree = ast.parse((ROOT / "plugins/hsm_operators" / f"{name}.py").read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        modules = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        modules |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
        assert not {module.partition(".")[0] for module in modules} & {"torch", "onnx", "onnxruntime", "tensorrt"}
