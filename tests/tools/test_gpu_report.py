"""tools/gpu_report.py: steps are run and recorded, the page says what was seen, and is not older than the kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmarks.gpu import plan
from tests.plugins.cuda.report import tool

from hsm_export.building.cuda_driver import Driver

ROOT = Path(__file__).resolve().parents[2]
GPU = Driver("13.0", ("NVIDIA L4 (sm89)",), None)
RESULTS = """<testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.gpu.test_engines" name="test_numbers[hsm-lm-fp16]" time="3.0">
 <properties><property name="build seconds" value="2.5"/><property name="plugin layers" value="5"/></properties>
</testcase>
<testcase classname="tests.gpu.test_engines" name="test_numbers[hsm-lm-fp32]" time="3.0">
 <failure message="assert passed">AssertionError: logits differ</failure>
</testcase>
<testcase classname="tests.gpu.test_engines" name="test_cache" time="0"><error message="fixture">no</error></testcase>
<testcase classname="tests.gpu.test_engines" name="test_refit" time="0"><skipped message="no TensorRT"/></testcase>
</testsuite></testsuites>"""
NUMBER = {"operator": "ShiftMix", "type": "fp16", "tactic": "tile8"}
NUMBERS = [
    NUMBER | {"verdict": "same", "error_of_allowed": 0.25},
    NUMBER | {"verdict": "differs", "error_of_allowed": 3},
]
TIME = NUMBER | {"sizes": {"B": 8, "T": 64}, "seconds": 2e-5, "bytes_per_second": 3e12, "pytorch_over_ours": 1.5}
COPY = {"ceiling": "copy", "bytes_per_second": 4e12}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = tool("gpu_report")
    monkeypatch.setattr(module, "PAGE", tmp_path / "docs" / "gpu-report.md")
    monkeypatch.setattr(module, "DATA", tmp_path / "docs" / "gpu-report.json")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "probe", lambda: GPU)
    (tmp_path / "docs").mkdir()
    return module


def steps(monkeypatch: pytest.MonkeyPatch, report: ModuleType, *known: plan.Step) -> None:
    monkeypatch.setattr(report, "named", lambda names: [step for step in known if not names or step.name in names])


def python(name: str, code: str, minutes: float = 1, needs: str = "") -> plan.Step:
    return plan.Step(name, minutes, "an answer", ("{python}", "-c", code, "{output}"), needs)


def run_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def test_the_page_is_current() -> None:
    """Once a GPU has been asked, this fails as soon as a kernel is newer than its answers."""
    data = ROOT / "docs" / "gpu-report.json"
    document = json.loads(data.read_text(encoding="utf-8")) if data.exists() else None
    current = tool("gpu_page").page(document)
    assert (ROOT / "docs" / "gpu-report.md").read_text(encoding="utf-8") == current, "run tools/gpu_report.py --report"
    assert document is None or document["kernels"] == plan.kernels(), "kernels changed: run `make gpu-test` again"


def test_a_changed_kernel_is_another_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "hsm_operators" / "shift_mix"
    folder.mkdir(parents=True)
    (folder / "cuda.cu").write_text('#include "hsm_operators/shift_mix/cuda.cuh"\n')
    (folder / "cuda.cuh").write_text("one")
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    before = plan.kernels()
    (folder / "test_cuda.cc").write_text("a test is no kernel")
    assert plan.kernels() == before
    (folder / "cuda.cuh").write_text("other")
    assert plan.kernels() != before


def test_steps_are_run_recorded_and_told(report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "out"
    write = "import sys, pathlib; pathlib.Path(sys.argv[1], '{}').write_text({!r})"
    numbers = json.dumps({"device": {"multiprocessors": 58}, "rows": {"a": NUMBERS}})
    times = json.dumps({"device": {}, "rows": {"ceilings": [COPY], "b": [TIME]}})
    steps(
        monkeypatch,
        report,
        python("numbers", write.format("numbers.json", numbers)),
        python("times", write.format("times.json", times)),
        python("engines", write.format("engines.xml", RESULTS) + "; sys.exit('a test failed')"),
        python("kernels", "import sys; print('no nvcc'); sys.exit(3)"),
        python("memcheck", "", needs="no-such-program"),
        python("racecheck", "import time; time.sleep(30)", minutes=0.01),
    )
    assert report.main(["--output", str(output)]) == 1
    outcomes = {name: step["outcome"] for name, step in run_of(output)["steps"].items()}
    assert outcomes == {
        "numbers": "passed",
        "times": "passed",
        "engines": "FAILED (1): a test failed",
        "kernels": "skipped: no nvcc",
        "memcheck": "skipped: no-such-program is not installed",
        "racecheck": "FAILED: not done after 0.01 minutes",
    }
    text = report.PAGE.read_text()
    for line in (
        "- GPU: NVIDIA L4 (sm89), 58 multiprocessors",
        "- driver: CUDA 13.0",
        f"- kernels: {plan.kernels()} ",
        "| `engines` | FAILED (1): a test failed |",
        "| ShiftMix | tile8 | fp16 | 1 differs, 1 same | 3.00 |",
        "| ShiftMix | B=8 T=64 | fp16 | tile8 | 20.0 | 0.75 | pytorch 1.50 |",
        "copy: 4 T/s",
        "| tests.gpu.test_engines.test_numbers | 1 | 1 | 0 |",
        "| tests.gpu.test_engines.test_cache | 0 | 1 | 0 |",
        "| `test_numbers[hsm-lm-fp16]` | build seconds | 2.5 |",
        "AssertionError: logits differ",
        "Skipped, 1 times: no TensorRT",
    ):
        assert line in text
    assert "No GPU has run this" not in text
    assert report.main(["--report", "--output", str(tmp_path / "nowhere")]) == 0
    assert report.PAGE.read_text() == text


def test_steps_add_up_over_calls(report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps(monkeypatch, report, python("numbers", ""), python("times", ""))
    for name in ("numbers", "times"):
        assert report.main([name, "--output", str(tmp_path)]) == 0
    assert list(run_of(tmp_path)["steps"]) == ["numbers", "times"]


def test_results_of_other_kernels_are_not_mixed_in(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(monkeypatch, report, python("numbers", ""))
    assert report.main(["--output", str(tmp_path)]) == 0
    monkeypatch.setattr(report, "kernels", lambda: "others")
    assert report.main(["--output", str(tmp_path)]) == 2
    assert report.main(["--report", "--output", str(tmp_path)]) == 2
    assert "are of other kernels" in capsys.readouterr().err


def test_without_a_gpu_nothing_is_run(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "probe", lambda: Driver(None, (), "no NVIDIA driver is installed"))
    monkeypatch.setattr(report, "run_all", lambda *_: pytest.fail("steps were run"))
    assert report.main([]) == 3
    assert "needs an NVIDIA GPU: no NVIDIA driver is installed" in capsys.readouterr().err
    assert not report.PAGE.exists()
    assert report.main(["--report", "--output", "nowhere"]) == 0
    assert "No GPU has run this yet" in report.PAGE.read_text()


def test_an_unknown_step_is_named(report: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["number"]) == 2
    assert "no step number; steps are kernels, numbers" in capsys.readouterr().err


def test_the_tests_are_there_and_marked() -> None:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    unmarked = [*command[:4], "not gpu", *command[5:]]
    assert subprocess.run(unmarked, cwd=ROOT, capture_output=True).returncode == 5  # nothing was collected
