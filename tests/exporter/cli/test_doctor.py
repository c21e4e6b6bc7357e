"""`hsm-export doctor` as a real process, on machines where things are missing or broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(*arguments: str, shadow: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = [str(shadow)] if shadow else []
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join([*paths, *filter(None, sys.path)])}
    command = [sys.executable, "-m", "hsm_export", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables)


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    data = json.loads(done.stdout)
    assert isinstance(data, dict)
    return data


def package(data: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (item for item in data["packages"] if item["name"] == name)
    assert isinstance(found, dict)
    return found


def hide(directory: Path, *modules: str) -> Path:
    (directory / "sitecustomize.py").write_text(BLOCKER.format(hidden=set(modules)))
    return directory


def test_this_machine_is_described() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("torch", "onnxruntime", "tensorrt_rtx", "onnx-reference", "NVIDIA driver", "C++ compiler", "nvcc"):
        assert word in done.stdout
    assert "Export and validation work here." in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "module",
    ["onnxruntime", pytest.param("torch", marks=pytest.mark.slow), pytest.param("onnx", marks=pytest.mark.slow)],
)
def test_without_a_package_of_the_main_job_the_exit_code_is_3(tmp_path: Path, module: str) -> None:
    done = run("--json", shadow=hide(tmp_path, module))
    assert done.returncode == 3, done.stderr
    data = report(done)
    assert data["ready"] is False
    assert package(data, module)["version"] is None
    assert any(finding["severity"] == "error" and module in finding["message"] for finding in data["findings"])


def test_optional_packages_and_two_onnx_runtimes_do_not_stop_the_main_job(tmp_path: Path) -> None:
    metadata = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    done = run("--json", shadow=hide(tmp_path, "tensorrt_rtx", "sklearn", "tensorrt"))
    assert done.returncode == 0, done.stderr
    data = report(done)
    assert data["ready"] is True
    assert package(data, "torch")["problem"] is None
    assert {"torch64", "onnx64", "torch", "onnx-reference", "ort", "ort-fused"} <= {
        state["name"] for state in data["runtimes"]
    }
    fixes = {finding["fix"] for finding in data["findings"]}
    assert {"pip install 'hsm-export[rtx]'", "pip install 'hsm-export[train]'"} <= fixes
    (warning,) = (finding for finding in data["findings"] if finding["severity"] == "warning")
    assert "overwrite each other" in warning["message"]
    assert "pip uninstall" in warning["fix"]


def test_everything_missing_is_survived(tmp_path: Path) -> None:
    everything = ("torch", "onnx", "onnxscript", "polygraphy", "safetensors", "onnxruntime", "tensorrt_rtx", "sklearn")
    done = run(shadow=hide(tmp_path, *everything), PATH="")
    assert done.returncode == 3, done.stderr
    assert "do not work here yet" in done.stdout


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.abort()", "signal 6"),
        pytest.param("raise ImportError('libfoo.so is gone')", "libfoo.so", marks=pytest.mark.slow),
    ],
)
def test_a_broken_package_is_told_from_a_missing_one(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(code)
    done = run("--json", shadow=tmp_path)
    assert done.returncode == 3, done.stderr
    data = report(done)
    assert words in package(data, "onnxruntime")["problem"]
    assert any("--force-reinstall" in (finding["fix"] or "") for finding in data["findings"])
