"""`hsm-export build` as a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.exporter.building.hand_made import token_model

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hsm_export", "build", *arguments], capture_output=True, text=True)


def test_json_on_stdout_and_everything_else_on_stderr(tmp_path: Path) -> None:
    model = token_model(tmp_path / "m.onnx", max_length=64)
    done = run(model, "--arch", "sm86", "--batch", "1:2:4", "--length", "1:16:64", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["architectures"] == ["sm86"]
    assert result["profiles"] == [{"batch": {"min": 1, "opt": 2, "max": 4}, "length": {"min": 1, "opt": 16, "max": 64}}]
    assert Path(result["engine"]).stat().st_size == result["engine_bytes"]
    assert "compiling" in done.stderr
    assert "builder warnings" in done.stderr


def test_profiles_are_completed_by_batch_and_length(tmp_path: Path) -> None:
    model = token_model(tmp_path / "m.onnx")
    profiles = ("--profile", "length=1", "--profile", "length=1:16:32,batch=2", "--batch", "3")
    done = run(model, "-o", tmp_path / "e.engine", "--arch", "sm89", *profiles)
    assert done.returncode == 0, done.stderr
    assert "batch 3, length 1" in done.stdout
    assert "batch 2, length 1:16:32" in done.stdout
    assert (tmp_path / "e.engine.json").exists()


def test_verbose_shows_the_builders_messages(tmp_path: Path) -> None:
    model = token_model(tmp_path / "m.onnx", operator="acme::NoSuchOperator")
    done = run(model, "-v")
    assert done.returncode == 6
    assert "error: " in done.stderr
    assert "output.product" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--arch", "sm90"), 6, "Hopper"),
        (("--arch", "sm75"), 6, "fp32 matrix products"),
        (("--arch", "nonsense"), 2, "nonsense"),
        (("--length", "5:3:1"), 2, "does not increase"),
        (("--profile", "length:3"), 2, "name=min:opt:max"),
        (("--target", "openvino"), 2, "openvino"),
        (("-o", "missing/e.engine"), 4, "missing"),
    ],
)
def test_refusals_have_their_exit_codes(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = run(token_model(tmp_path / "m.onnx"), *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_missing_model_is_a_bad_input() -> None:
    done = run("nowhere.onnx")
    assert done.returncode == 4
    assert "nowhere.onnx does not exist" in done.stderr


def test_a_kit_is_written_without_tensorrt_or_a_gpu(tmp_path: Path) -> None:
    model = token_model(tmp_path / "m.onnx", max_length=16)
    done = run(model, "--target", "tensorrt", "--kit", tmp_path / "kit", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["target"], result["arbiter"], result["plugin_layers"]) == ("tensorrt", "onnx64", 0)
    assert result["files"] == len([path for path in (tmp_path / "kit").rglob("*") if path.is_file()])
    again = run(model, "--target", "tensorrt", "--kit", tmp_path / "kit")
    assert again.returncode == 4
    assert "not an empty folder" in again.stderr
    early = run("--from-kit", tmp_path / "kit" / "result")
    assert early.returncode == 4
    assert "result is not a folder" in early.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("m.onnx", "--from-kit", "x"), "--from-kit takes no MODEL"),
        (("--kit", "x", "--from-kit", "y"), "--from-kit takes no MODEL"),
        ((), "Missing argument 'MODEL'"),
        (("m.onnx", "--against", "zoo:hsm-lm"), "--against is for --kit"),
        (("m.onnx", "--timing-cache", "c"), "--timing-cache: TensorRT-RTX has no such option"),
        (("m.onnx", "--target", "tensorrt", "--kit", "k", "--embed-plugins"), "add --version-compatible"),
    ],
)
def test_contradictions_are_usage_errors(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    token_model(tmp_path / "m.onnx")
    done = run(*(tmp_path / item if item == "m.onnx" else item for item in arguments))
    assert done.returncode == 2
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_experimental_plugins_are_labelled() -> None:
    done = run("--help")
    assert "EXPERIMENTAL: NVIDIA does not support" in " ".join(done.stdout.split())
