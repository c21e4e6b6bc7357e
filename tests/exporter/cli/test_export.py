"""`hsm-export export` as a real process."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from tests.exporter.exporting.models import language_model

from hsm_export import cli
from hsm_models import HSMConfig
from hsm_models.checkpoint import save_checkpoint


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hsm_export", "export", *arguments], capture_output=True, text=True)


def run_here(*arguments: str | Path) -> int:
    """Run the command in this process, which has PyTorch in memory already."""
    return cli.run(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    save_checkpoint(language_model(HSMConfig()), path)
    return path


def test_json_on_stdout_and_phases_on_stderr(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, "-o", tmp_path / "m.onnx", "--precision", "fp16", "--external-data", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["precision"] == "fp16"
    assert result["mixers"] == {"layers.0.mixer": "ShiftMix"}
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data", "m.onnx.json"}
    phases = ["loading", "tracing", "running PyTorch", "writing", "checking"]
    assert [line.removeprefix("export: ") for line in done.stderr.splitlines()] == phases


def test_a_table_for_people_in_place_of_an_older_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_text("older")
    assert run_here(checkpoint, "-o", tmp_path / "m.onnx") == 0
    shown = capsys.readouterr().out
    assert "tokens int64 (batch, length)" in shown
    assert "1 x ShiftMix" in shown
    assert "largest error" in shown
    assert (tmp_path / "m.onnx").stat().st_size > 1000


def test_a_decoding_step_is_exported_and_validated(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "decode.onnx"
    assert run_here(checkpoint, "-o", target, "--decode", "--rollback", "3", "--last-logits") == 0
    shown = capsys.readouterr().out
    assert "past.0.ring float32 (batch, 4, 32)" in shown
    assert "1 tensor, 512 bytes a sequence, whatever its length" in shown
    assert json.loads(target.with_name("decode.onnx.json").read_text())["state"]["rollback"] == 3
    assert cli.run(["validate", str(target), "--against", str(checkpoint), "--runtimes", "ort", "--steps", "6"]) == 0
    shown = capsys.readouterr().out
    assert "present.0.ring" in shown
    assert "ort: error of 6 single steps" in shown
    assert "exact to the bit: rows of length 0, forks, rollback" in " ".join(shown.split())
    assert run_here(checkpoint, "-o", target, "--capacity", "9") == 2
    assert "--decode" in capsys.readouterr().err


def test_bad_checkpoints_and_outputs(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "m.onnx"
    target.parent.mkdir()
    hostile = tmp_path / "hostile.pt"
    hostile.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes((checkpoint / "model.safetensors").read_bytes()[:-100])
    cases = [
        (tmp_path / "missing", target, "missing"),
        (hostile, target, "import"),
        (truncated, target, "truncated"),
        ("zoo:no-such-model", target, "no-such-model"),
        (checkpoint, target.parent, "is a directory"),
        (checkpoint, tmp_path / "nowhere" / "m.onnx", "does not exist"),
    ]
    for source, output, word in cases:
        assert run_here(source, "-o", output) == 4
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if not line.startswith(("export: ", "hint: "))]
        assert len(errors) == 1 and word in errors[0], captured.err
        assert captured.out == ""
    assert not list(target.parent.iterdir())


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Examples:" in run("--help").stdout
    for arguments in ((), ("model",), ("model", "-o", "m.onnx", "--precision", "int8")):
        assert run_here(*arguments) == 2
        assert "Error: " in capsys.readouterr().err
