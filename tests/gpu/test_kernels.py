"""The CUDA kernels' C++ tests, compiled by nvcc for the GPU of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
_NOT_INSTALLED = 3  # cpp_test.sh's exit code for missing tools


def test_the_kernels_compute_what_the_cpu_computes(record_property: Callable[[str, object], None]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    results = ROOT / "build" / "gpu-tests.json"
    results.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "tools/cpp_test.sh", "gpu"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode == _NOT_INSTALLED:
        pytest.skip(done.stderr.strip())
    if results.exists():
        summary = json.loads(results.read_text())
        record_property("C++ tests", summary["tests"])
        record_property("C++ failures", summary["failures"])
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
