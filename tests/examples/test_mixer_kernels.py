"""The kernels beside two of the mixers of examples/mixers, in the matrix of `hsm-export operator test`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.foreign import HAS_NVCC, needs_compilers

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "mixers"
DTYPES = {"fp32", "fp16", "bf16"}

pytestmark = needs_compilers


def _judged(name: str, folder: Path, only: str) -> list[dict[str, Any]]:
    """Test a copy of a mixer in a process of its own: this one may know the mixer's file by another path."""
    shutil.copy(FOLDER / f"{name}.py", folder)
    shutil.copytree(FOLDER / name, folder / name, ignore=shutil.ignore_patterns("lib", "__pycache__"))
    command = [sys.executable, "-m", "hsm_export", "operator", "test", f"{name}.py", "--only", only, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cells: list[dict[str, Any]] = json.loads(done.stdout)["cells"]
    return cells


@pytest.mark.parametrize(
    ("name", "only", "expected"),
    [
        ("rg_lru", "naive,fast", {"naive", "fast"}),
        ("short_convolution", "naive,fast,cuda", {"naive", "fast", "cuda tile", "cuda token"}),
    ],
)
def test_kernels_are_the_definition(name: str, only: str, expected: set[str], tmp_path: Path) -> None:
    cells = _judged(name, tmp_path, only)
    skipped = {cell["implementation"]: cell["skipped"] for cell in cells if cell["verdict"] == "skipped"}
    assert all("CUDA's headers" in reason for reason in skipped.values()), skipped
    passed = {(cell["implementation"], cell["dtype"]) for cell in cells if cell["verdict"] == "passed"}
    wanted = {way for way in expected if not (skipped and way.startswith("cuda"))}
    assert passed == {(way, dtype) for way in wanted for dtype in DTYPES}


@pytest.mark.slow
@pytest.mark.skipif(not HAS_NVCC, reason="there is no nvcc")
def test_the_plugin_is_a_layer_of_an_engine(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    cells = _judged("short_convolution", tmp_path, "engine,torch,onnx-reference,ort")
    assert {(cell["implementation"], cell["verdict"]) for cell in cells} == {
        (name, "passed") for name in ("torch", "onnx-reference", "ort", "engine")
    }
