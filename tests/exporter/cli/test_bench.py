"""`hsm-export bench` as a real process."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.exporter.validation.tiny import change_weight, plant_nan, tiny_model, write_tiny

from hsm_export import cli


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hsm_export", "bench", *arguments], capture_output=True, text=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tiny_model(), tmp_path / "tiny.onnx", task="language_model")


def test_json_and_plot(model: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = model.with_name("plot.svg")
    arguments = ("--runtimes", "ort,onnx-reference", "--length", "9,3", "--batch", "2", "--threads", "1")
    done = run(model, *arguments, "--repetitions", "3", "--plot", plot, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["lengths"] == [3, 9]
    assert result["threads"] == 1
    assert [(item["length"], item["runtime"]) for item in result["measurements"]] == [
        (3, "ort"),
        (3, "onnx-reference"),
        (9, "ort"),
        (9, "onnx-reference"),
    ]
    for item in result["measurements"]:
        seconds = item["seconds"]
        assert 0 < seconds["minimum"] <= seconds["q1"] <= seconds["median"] <= seconds["q3"]
        assert item["per_second"] == pytest.approx(2 * item["length"] / seconds["median"])
        assert item["peak_bytes"] > item["extra_bytes"] >= 0
    assert plot.read_text().lstrip().startswith("<?xml")
    assert "warming up ort" in done.stderr


@pytest.mark.slow
def test_table_skips_what_needs_a_checkpoint(model: Path) -> None:
    done = run(model, "--length", "4", "--threads", "1", "--repetitions", "1")
    assert done.returncode == 0, done.stderr
    for word in ("ort", "tokens/s", "peak memory", "max error", "skipped torch: needs the PyTorch model"):
        assert word in done.stdout


def test_wrong_numbers_are_never_timed(model: Path) -> None:
    change_weight(model, "up", plant_nan)
    done = run(model, "--runtimes", "ort", "--length", "4")
    assert done.returncode == 5
    assert done.stdout == ""
    assert "nothing was timed" in done.stderr
    assert "warming up" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--runtimes", "ort,magic"), 2, "magic"),
        (("--runtimes", "torch"), 2, "needs the PyTorch model"),
        (("--length", "3,x"), 2, "'x' is not a whole number"),
        (("--length", "0"), 2, "at least 1"),
        (("--length", ","), 2, "no length"),
        (("--batch", "0"), 2, "batch must be at least 1"),
        (("--threads", "-1"), 2, "threads must be at least 1"),
        (("--plot", "plot.gif"), 2, ".png or .svg"),
    ],
)
def test_misuse_is_one_clear_line(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert cli.run(["bench", str(model), *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_plot_without_matplotlib_is_refused_before_anything_runs(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    assert cli.run(["bench", str(model), "--plot", "plot.png"]) == 3
    assert "matplotlib" in capsys.readouterr().err
