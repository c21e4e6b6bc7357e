"""tools/gpu_report.py: what is written about a run on a GPU, and that without one nothing is run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hsm_export.building.cuda_driver import Driver

ROOT = Path(__file__).resolve().parents[2]
RESULTS = """<testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.gpu.test_engines" name="test_numbers[hsm-lm-fp16]" time="3.0">
 <properties><property name="build seconds" value="2.5"/><property name="plugin layers" value="5"/></properties>
</testcase>
<testcase classname="tests.gpu.test_engines" name="test_numbers[hsm-lm-fp32]" time="3.0">
 <failure message="assert passed">AssertionError: logits differ</failure>
</testcase>
<testcase classname="tests.gpu.test_engines" name="test_cache" time="0"><error message="fixture">no</error></testcase>
<testcase classname="tests.gpu.test_kernels" name="test_kernels" time="0"><skipped message="no nvcc"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "tools" / "gpu_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "REPORT", tmp_path / "build" / "gpu-report.md")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "build" / "gpu-report.xml")
    return module


def test_outcomes_measurements_failures_and_skips_are_told(tool: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text(RESULTS)
    text = tool.report(results, Driver("13.0", ("NVIDIA L4 (sm89)",), None))
    assert "- GPU: NVIDIA L4 (sm89)" in text
    assert "- driver: CUDA 13.0" in text
    assert "| tests.gpu.test_engines.test_numbers | 1 | 1 | 0 |" in text
    assert "| tests.gpu.test_engines.test_cache | 0 | 1 | 0 |" in text
    assert "| `test_numbers[hsm-lm-fp16]` | build seconds | 2.5 |" in text
    assert "AssertionError: logits differ" in text
    assert "- 1 x no nvcc" in text


def test_the_report_appears_even_when_tests_fail(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(results: Path) -> int:
        results.parent.mkdir()
        results.write_text(RESULTS)
        return 1

    monkeypatch.setattr(tool, "probe", lambda: Driver("13.0", ("NVIDIA L4 (sm89)",), None))
    monkeypatch.setattr(tool, "run_tests", run)
    assert tool.main([]) == 1
    assert "## Failures" in (tmp_path / "build" / "gpu-report.md").read_text()


def test_without_a_gpu_nothing_is_run(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "probe", lambda: Driver(None, (), "no NVIDIA driver is installed"))
    monkeypatch.setattr(tool, "run_tests", lambda _results: pytest.fail("tests were run"))
    assert tool.main([]) == 3
    assert "needs an NVIDIA GPU: no NVIDIA driver is installed" in capsys.readouterr().err
    assert not tool.REPORT.exists()


def test_the_tests_are_there_and_marked() -> None:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    unmarked = [*command[:4], "not gpu", *command[5:]]
    assert subprocess.run(unmarked, cwd=ROOT, capture_output=True).returncode == 5  # nothing was collected
