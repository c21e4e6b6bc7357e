"""Imports go down only, those inside functions too: between packages, between floors of hsm_export, between files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from importlib.util import resolve_name
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


# The packages and modules of hsm_export, from the ground up: each imports only what stands on floors below its own.
FLOORS = (
    ("errors", "dtypes", "machine", "process_memory", "interrupts", "alone"),
    ("files", "native", "child_process", "idle_threads", "limits"),
    ("formats", "limited_process"),
    ("torch_model", "onnx_model", "comparison"),
    ("building",),
    ("runtimes", "inspection"),
    ("exporting",),
    ("decoding", "operators"),
    ("quantisation",),
    ("validation",),
    ("benchmarking", "kits", "bundling"),
    ("diffing",),
    ("importing", "demonstration", "diagnosis"),
    ("cli",),
    ("__main__",),
)


def _imports(path: Path, package: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of hsm_export that a file imports when it runs; those that only type checkers see are none."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            home = resolve_name("." * node.level + (node.module or ""), package)
            yield from (full if (full := f"{home}.{name.name}") in modules else home for name in node.names)


def test_imports_of_the_exporter_go_down_only_and_never_in_circles() -> None:
    source = ROOT / "exporter"
    modules = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (source / "hsm_export").rglob("*.py")
    }
    imports = {
        name: set(_imports(path, name if path.stem == "__init__" else name.rpartition(".")[0], modules)) - {name}
        for name, path in modules.items()
    }
    floor = {f"hsm_export.{name}": level for level, names in enumerate(FLOORS) for name in names}

    def level(name: str) -> int:
        return floor[".".join(name.split(".")[:2])]

    pairs = [(name, other) for name, others in imports.items() for other in others if "hsm_export" not in (name, other)]
    up = [pair for pair in pairs if pair[1].split(".")[1] != pair[0].split(".")[1] and level(pair[1]) >= level(pair[0])]
    assert not up
    list(TopologicalSorter(imports).static_order())  # its error names the circle
