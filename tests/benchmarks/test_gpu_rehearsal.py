"""The steps for an hour with a GPU, rehearsed under the host shim: all of them run, and find what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu import plan
from benchmarks.gpu.__main__ import main
from tests.plugins.cuda.report import tool

from hsm_operators import OPERATORS
from hsm_operators.cuda_kernels import CudaKernel, CudaKernelLibrary

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build/native/tests/emulated/libhsm_kernels_cuda_emulated.so"
pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason=f"there is no {LIBRARY.name}; see `make cpp-test`")


def arguments(step: str, output: Path, *more: str) -> list[str]:
    return [step, "--library", str(LIBRARY), "--output", str(output), "--rehearse", *more]


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [row for rows in json.loads(output.read_text())["rows"].values() for row in rows]


def offline() -> tuple[str, ...]:
    """What runs a command without a network, where the machine can do that."""
    alone = ("unshare", "-rn")
    done = subprocess.run([*alone, "true"], capture_output=True, check=False)
    return alone if done.returncode == 0 else ()


def test_every_tactic_is_tried(tmp_path: Path) -> None:
    """Without a network where the machine can do that, and without an installed package: as on a GPU's machine."""
    output = tmp_path / "numbers.json"
    command = [*offline(), sys.executable, "-m", "benchmarks.gpu", *arguments("numbers", output)]
    environment = {**os.environ, "PYTHONPATH": "plugins:."}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    library = CudaKernelLibrary(LIBRARY, "cpu")
    # A shift's step needs a ring.
    wanted = {(o.name, t) for o in OPERATORS.values() for t in library.tactics(o) if t != "step" or o.states}
    computed = {(row["operator"], row["tactic"]) for row in rows_of(output) if row["verdict"] == "same"}
    assert wanted == computed and len(wanted) > 30


def test_times_have_peers(tmp_path: Path) -> None:
    output = tmp_path / "times.json"
    assert main(arguments("times", output, "--only", "fp16")) == 0
    timed = [row for row in rows_of(output) if "seconds" in row]
    assert timed and all(row["pytorch_over_ours"] > 0 for row in timed)
    assert {"attention_over_ours", "copy_over_ours", "dense_over_ours"} <= {key for row in timed for key in row}


def test_a_kernel_that_writes_nothing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "numbers.json"
    monkeypatch.setattr(CudaKernel, "into", lambda *_: None)
    assert main(arguments("numbers", output, "--only", "fp32 odd")) == 1
    assert '"verdict": "differs"' in capsys.readouterr().err


def test_a_step_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "numbers.json"
    assert main(arguments("numbers", output, "--only", "fp32 odd", "--minutes", "0")) == 0
    assert "0 rows" in capsys.readouterr().out and not output.exists()
    assert main(arguments("numbers", output, "--only", "fp32 odd")) == 0
    before = output.read_text()
    assert main(arguments("numbers", output, "--only", "fp32 odd")) == 0
    assert output.read_text() == before


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["numbers", "--library", str(LIBRARY), "--output", str(tmp_path / "n.json")]) == 3
    assert "--rehearse" in capsys.readouterr().err


STAND_INS = {
    "nvidia-smi": "",
    "nvcc": "",
    # What the options say is kept; then the program that would be watched runs.
    "compute-sanitizer": '[ "$1 $3 $4" = "--tool --error-exitcode 9" ] || exit 2\nshift 4\nexec "$@" --rehearse',
    "ncu": 'while [ "$1" != --log-file ]; do shift; done\necho counted >"$2"\nshift 2\nexec "$@" --rehearse',
    # `cmake --preset gpu` configures; `cmake --build` leaves a program that writes what GoogleTest would.
    "cmake": """[ "$1" = --preset ] && exit
folder=../build/native-gpu/tests/cuda
mkdir -p $folder
printf '#!/bin/sh\\necho {} >"${1#--gtest_output=json:}"\\n' >$folder/hsm_cuda_gpu_tests
chmod +x $folder/hsm_cuda_gpu_tests
""",
}


def rehearsed(step: plan.Step) -> plan.Step:
    """A benchmark's step on the CPU with few rows, one of pytest without a GPU; others as they are."""
    few = "ShiftMix fp32" if "times" in step.command else "ShiftMix fp32 odd"
    if step.name in ("numbers", "times"):
        return replace(step, command=(*step.command, "--rehearse", "--only", few))
    if "benchmarks.gpu" in step.command:
        return replace(step, command=(*step.command[:-1], few))
    return step


def test_every_step_s_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, with a driver, compilers and tools that are played, and kernels that the host runs."""
    root, programs = tmp_path / "root", tmp_path / "bin"
    for folder in ("benchmarks", "plugins", "exporter", "models", "tests"):
        (root / folder).parent.mkdir(exist_ok=True)
        (root / folder).symlink_to(ROOT / folder)
    (root / "tools").mkdir()
    shutil.copy(ROOT / "tools/cpp_test.sh", root / "tools")
    shutil.copy(ROOT / "pyproject.toml", root)
    programs.mkdir()
    for name, code in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{code}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    report = tool("gpu_report")
    output = tmp_path / "out"
    output.mkdir()
    outcomes = {}
    for step in map(rehearsed, plan.STEPS):
        alone = replace(step, command=(*offline(), *step.command))
        outcomes[step.name] = report.run_step(alone, LIBRARY, output, root)["outcome"]
    assert outcomes == {step.name: "passed" for step in plan.STEPS}
    left = {path.name for path in output.iterdir() if path.suffix != ".log"}
    sanitized = {f"{name}.json" for name in ("memcheck", "racecheck", "synccheck", "initcheck")}
    assert (
        left
        == {"kernels.json", "numbers.json", "times.json", "counters.csv", "counted.json", "engines.xml"} | sanitized
    )


def test_the_tests_for_a_gpu_are_compiled_with_all_others() -> None:
    """They are built wherever there is nvcc, and the host shim runs them all, with a few that need its records."""
    folder = ROOT / "build/native/tests/cuda"
    if not (folder / "hsm_cuda_gpu_tests").is_file():
        pytest.skip("there is no hsm_cuda_gpu_tests: no nvcc, or see `make cpp-test`")
    listed = [
        subprocess.run([folder / name, "--gtest_list_tests"], capture_output=True, text=True, check=True).stdout
        for name in ("hsm_cuda_gpu_tests", "hsm_cuda_tests")
    ]
    on_gpu, under_shim = (set(text.splitlines()) for text in listed)
    assert on_gpu <= under_shim and len(on_gpu) > 30


def test_the_preset_for_a_gpu_builds_what_the_steps_need() -> None:
    presets = json.loads((ROOT / "plugins/CMakePresets.json").read_text())["buildPresets"]
    targets = next(preset["targets"] for preset in presets if preset["name"] == "gpu")
    assert {"hsm_cuda_gpu_tests", "hsm_kernels_cuda"} <= set(targets)
    assert plan.LIBRARY.name == "libhsm_kernels_cuda.so"
