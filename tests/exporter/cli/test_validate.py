"""`hsm-export validate` as a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.exporter.validation.tiny import change_weight, plant_nan, tiny_model, write_tiny

from hsm_export import cli


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hsm_export", "validate", *arguments], capture_output=True, text=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tiny_model(), tmp_path / "tiny.onnx", task="language_model")


def test_table_on_stdout(model: Path) -> None:
    done = run(model)
    assert done.returncode == 0, done.stderr
    for word in ("PASSED", "onnx-reference", "ort", "logits", "onnx64", "top-1", "warning: no checkpoint"):
        assert word in done.stdout
    assert "running ort" in done.stderr


def test_json_is_all_there_is_on_stdout(model: Path) -> None:
    done = run(model, "--json", "--runtimes", "ort", "--shape", "2x7")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"] is True
    assert [report["runtime"] for report in result["runtimes"]] == ["onnx-reference", "ort"]
    assert result["cases"][0] == "random 2×7"


def test_different_numbers_end_with_5_and_one_line(model: Path) -> None:
    change_weight(model, "up", plant_nan)
    done = run(model)
    assert done.returncode == 5
    assert "FAILED" in done.stdout
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "logits" in error
    assert "tokens" in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--runtimes", "ort,magic"), 2, "magic"),
        (("--runtimes", "torch"), 2, "needs the PyTorch model"),
        (("--shape", "3"), 2, "BATCHxLENGTH"),
        (("--shape", "0x3"), 2, "at least 1"),
        (("--inputs", "missing.npz"), 4, "missing.npz"),
        (("--against", "missing.safetensors"), 4, "missing.safetensors"),
        (("--against", "zoo:no-such-model"), 4, "no-such-model"),
    ],
)
def test_bad_usage_gets_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert cli.run(["validate", str(model), *arguments]) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_bad_files_end_with_4(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, wrong=np.zeros(3))
    assert cli.run(["validate", str(model), "--inputs", str(data)]) == 4
    model.write_bytes(model.read_bytes()[:300])
    assert cli.run(["validate", str(model)]) == 4
    assert "not a whole ONNX file" in capsys.readouterr().err
    assert cli.run(["validate", str(tmp_path / "nothing.onnx")]) == 4
