"""`hsm_models.train`, `python -m hsm_models.train` and `hsm-export train`: from a configuration to a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, SoftmaxConfig, TaylorShiftConfig
from hsm_models.checkpoint import load_checkpoint, read_metadata
from hsm_models.errors import CheckpointError, ConfigError, DataError
from hsm_models.train import plan
from hsm_models.training import state_path, train
from hsm_models.training_settings import TrainingSettings

SETTINGS = TrainingSettings(steps=40, batch=4, length=16, lr=1e-2, warmup=5)
COMMANDS = {"toolkit": ["-m", "hsm_export", "train", "--json"], "models": ["-m", "hsm_models.train"]}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(language_model().to_json())
    return path


def language_model(*mixers: object) -> ModelConfig:
    layers = tuple(LayerConfig(mixer, MLPConfig(hidden=32)) for mixer in mixers or (HSMConfig(shifts=(1, 2)),))
    return ModelConfig(task="language_model", width=16, vocab_size=256, layers=layers, tie_embeddings=True)


def command_line(kind: str, *arguments: object) -> list[str]:
    return [sys.executable, *COMMANDS[kind], *map(str, arguments)]


def run(kind: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(kind, *arguments), capture_output=True, text=True)


@pytest.mark.parametrize(
    "mixers",
    [
        (HSMConfig(shifts=(1, 2)), SoftmaxConfig(heads=2)),
        (HSMConfig(shifts=(1, 2, 4, 8), mixing="gated2"),),
        (TaylorShiftConfig(heads=2, causal=True),),
    ],
    ids=["hybrid", "gated", "taylor-shift"],
)
def test_every_kind_of_language_model_learns(mixers: tuple[object, ...], text: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    result = train(language_model(*mixers), text, output, SETTINGS)
    assert result.metric == "bits_per_byte"
    assert result.held_out < 5.0  # a fresh model is at 8
    model = load_checkpoint(output)
    assert sum(p.numel() for p in model.parameters()) == result.parameters
    metadata = read_metadata(output)
    assert float(metadata["held_out"]) == pytest.approx(result.held_out, abs=1e-4)
    assert json.loads(metadata["settings"])["steps"] == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "text.txt"]


def test_classifiers_learn_labelled_sequences(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 4, (400, 6))
    np.savez(tmp_path / "rows.npz", pixels=rows, labels=rows.sum(1) % 2 * 0 + (rows[:, 0] > 1))
    config = ModelConfig(
        task="sequence_classifier",
        input="pixels",
        width=16,
        vocab_size=4,
        classes=2,
        masked=True,
        positions="learned",
        max_length=6,
        layers=(LayerConfig(TaylorShiftConfig(heads=2), MLPConfig(hidden=16)),),
    )
    result = train(config, tmp_path / "rows.npz", tmp_path / "model", SETTINGS)
    assert result.metric == "accuracy"
    assert result.held_out == 1.0
    assert (tmp_path / "model" / "config.json").is_file()


def test_training_twice_gives_the_same_weights(text: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(language_model(), text, tmp_path / f"{name}.safetensors", SETTINGS)
    one, two = (load_checkpoint(tmp_path / f"{name}.safetensors").state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_interrupting_and_resuming_gives_the_same_weights(text: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train(language_model(), text, whole, SETTINGS)
    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(
            language_model(), text, parts, SETTINGS,
            progress=lambda news: steps.append(news.step), stop=lambda: steps[-1] == 17,
        )  # fmt: skip
    assert not parts.exists()
    result = train(language_model(), text, parts, SETTINGS, resume=True)
    assert result.steps == 40
    one, two = load_checkpoint(whole).state_dict(), load_checkpoint(parts).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not state_path(parts).exists()


def test_resuming_nothing_or_something_else_is_refused(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no training state"):
        train(language_model(), text, output, SETTINGS, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(language_model(), text, output, SETTINGS, stop=lambda: True)
    with pytest.raises(ConfigError, match="another config"):
        train(language_model(HSMConfig(shifts=(4,))), text, output, SETTINGS, resume=True)


def test_bad_outputs_are_refused_before_training(text: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        train(language_model(), text, tmp_path / "missing" / "model.safetensors", SETTINGS)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="is a directory"):
        train(language_model(), text, tmp_path / "folder.safetensors", SETTINGS)


def test_recipes_fill_what_the_options_leave_open(tmp_path: Path) -> None:
    chosen = plan("taylor-shift-digits", None, None, {"steps": 3, "batch": None})
    assert (chosen.data, chosen.settings.steps, chosen.settings.batch) == ("digits", 3, 16)
    chosen = plan(None, "c.json", "text.txt", {"lr": 0.5})
    assert (chosen.config, chosen.data, chosen.settings.lr) == (Path("c.json"), "text.txt", 0.5)
    with pytest.raises(ConfigError, match="--config and --data"):
        plan(None, "c.json", None, {})
    with pytest.raises(ConfigError, match="no recipe 'gpt'; recipes are hsm-lm"):
        plan("gpt", None, None, {})


@pytest.mark.parametrize("kind", list(COMMANDS))
def test_the_commands_train(kind: str, text: Path, config: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    done = run(
        kind, "--config", config, "--data", text, "-o", output, "--steps", 5, "--batch", 2, "--length", 16, "--seed", 3
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["checkpoint"] == str(output)
    assert result["steps"] == 5
    assert "step 5/5" in done.stderr
    load_checkpoint(output)


def test_the_toolkit_prints_a_table(text: Path, config: Path, tmp_path: Path) -> None:
    arguments = ["-m", "hsm_export", "train", "--config", config, "--data", text, "-o", tmp_path / "m"]
    arguments += ["--steps", 2, "--length", 16]
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "held out, bits per byte" in done.stdout


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--data", "missing.txt"], "cannot read the training data missing.txt"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--length", "100000"], "too few for windows of 100000"),
        (["--config", "missing.json"], "cannot read the model configuration missing.json"),
        (["--recipe", "gpt"], "there is no recipe 'gpt'"),
        (["--resume"], "there is no training state"),
    ],
)
def test_bad_input_is_one_clear_line(
    change: list[str], reason: str, text: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hsm_export import cli
    from hsm_models.train import main

    arguments = ["--config", str(config), "--data", str(text), "-o", str(tmp_path / "m.safetensors"), "--length", "16"]
    arguments += change
    for command in (lambda: main(arguments), lambda: cli.run(["train", *arguments])):
        assert command() == 4
        captured = capsys.readouterr()
        assert reason in captured.err
        assert captured.out == ""
    assert not (tmp_path / "m.safetensors").exists()


def test_a_hostile_configuration_is_refused(text: Path, tmp_path: Path) -> None:
    for content in ("{", '{"task": "language_model", "width": 8, "surprise": 1}', "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError):
            train(tmp_path / "config.json", text, tmp_path / "m", SETTINGS)


def test_short_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match="9 symbols, too few"):
        train(language_model(), tmp_path / "short.txt", tmp_path / "m", SETTINGS)


@pytest.mark.parametrize("kind", ["toolkit", pytest.param("models", marks=pytest.mark.slow)])
def test_ctrl_c_saves_the_state_and_resume_finishes(kind: str, text: Path, config: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    arguments = ["--config", config, "--data", text, "-o", output, "--steps", 150, "--batch", 2, "--length", 16]
    process = subprocess.Popen(command_line(kind, *arguments), stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    wait_for_line(process.stderr, "step 50/150")
    process.send_signal(signal.SIGINT)
    remaining = process.stderr.read()
    assert process.wait(60) == 130
    assert "--resume" in remaining
    assert state_path(output).is_file()
    assert not output.exists()
    done = run(kind, *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert "step 50/150" not in done.stderr
    assert json.loads(done.stdout)["steps"] == 150


def wait_for_line(stream: object, text: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if text in stream.readline():  # type: ignore[attr-defined]
            return
    raise AssertionError(f"{text!r} was not printed")
