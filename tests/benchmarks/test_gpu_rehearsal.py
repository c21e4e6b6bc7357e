"""The steps for an hour with a GPU, rehearsed under the host shim: all of them run, and find what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu.__main__ import main

from hsm_operators import OPERATORS
from hsm_operators.cuda_kernels import CudaKernel, CudaKernelLibrary

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build/native/tests/emulated/libhsm_kernels_cuda_emulated.so"
pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason=f"there is no {LIBRARY.name}; see `make cpp-test`")


def arguments(step: str, output: Path, *more: str) -> list[str]:
    return [step, "--library", str(LIBRARY), "--output", str(output), "--rehearse", *more]


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [row for rows in json.loads(output.read_text())["rows"].values() for row in rows]


def test_every_tactic_is_tried(tmp_path: Path) -> None:
    """Without a network where the machine can do that, and without an installed package: as on a GPU's machine."""
    output = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments("numbers", output)]
    alone = ["unshare", "-rn"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
        command = alone + command
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
