"""Ways in which training ends early: what is printed is true, and the run continues to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig
from hsm_models.checkpoint import fingerprint, load_checkpoint, read_metadata
from hsm_models.errors import CheckpointError, ConfigError
from hsm_models.interruption import interruptible, what_remains
from hsm_models.train import plan
from hsm_models.trainer import Trainer
from hsm_models.training import state_path, train
from hsm_models.training_settings import Progress, TrainingSettings

SETTINGS = TrainingSettings(steps=12, batch=4, length=16, lr=1e-2, warmup=2, dropout=0.1)
LAYER = LayerConfig(HSMConfig(shifts=(1, 2)), MLPConfig(hidden=16))
CONFIG = ModelConfig(task="language_model", width=16, vocab_size=256, layers=(LAYER,), tie_embeddings=True)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


@pytest.fixture
def whole(text: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing interrupted."""
    train(CONFIG, text, tmp_path / "whole.safetensors", SETTINGS)
    return load_checkpoint(tmp_path / "whole.safetensors").state_dict()


def at(step: int, act: Callable[[], Any]) -> Callable[[Progress], None]:
    """Return a listener that acts once a step is taken."""

    def listen(news: Progress) -> None:
        if news.step == step:
            act()

    return listen


def send(*numbers: int) -> Callable[[], None]:
    def act() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # until Python has run the handler

    return act


def resumed(text: Path, output: Path) -> dict[str, torch.Tensor]:
    train(CONFIG, text, output, SETTINGS, resume=True)
    assert not state_path(output).exists()
    return load_checkpoint(output).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_state_of_its_step(
    number: int, text: Path, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    output = tmp_path / "m.safetensors"
    before = signal.signal(number, signal.default_int_handler)  # a test run under nohup ignores SIGHUP
    try:
        with pytest.raises(KeyboardInterrupt), interruptible() as stop:
            train(CONFIG, text, output, SETTINGS, progress=at(5, send(number)), stop=stop)
    finally:
        signal.signal(number, before)
    assert "the state of step 5 is saved" in what_remains(state_path(output)) and not output.exists()
    assert same(resumed(text, output), whole)


def test_a_second_ctrl_c_in_a_step_saves_the_step_before(
    text: Path, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.safetensors"
    update = Trainer._backward
    calls: list[int] = []

    def slow(self: Trainer, *arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 6:
            send(signal.SIGINT, signal.SIGINT)()
        return update(self, *arguments)

    monkeypatch.setattr(Trainer, "_backward", slow)
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        train(CONFIG, text, output, SETTINGS, stop=stop)
    monkeypatch.undo()
    assert "the state of step 5 is saved" in what_remains(state_path(output))
    assert same(resumed(text, output), whole)


def test_an_interrupted_update_of_the_weights_is_not_saved(
    text: Path, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.safetensors"
    update = torch.optim.AdamW.step
    calls: list[int] = []

    def broken(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        result = update(self, *arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, text, output, SETTINGS, save_seconds=0)
    monkeypatch.undo()
    assert "the state of step 5 is saved" in what_remains(state_path(output))
    assert same(resumed(text, output), whole)


def test_before_the_first_step_there_is_no_state_and_none_is_claimed(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        send(signal.SIGTERM, signal.SIGTERM)()
        train(CONFIG, text, output, SETTINGS, stop=stop)
    assert not state_path(output).exists() and "no state is saved" in what_remains(state_path(output))


def test_a_kill_loses_what_came_after_the_last_saved_state(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    (tmp_path / "c.json").write_text(CONFIG.to_json())
    command = [sys.executable, "-m", "hsm_models.train", "--config", tmp_path / "c.json", "--data", text, "-o", output]
    command += ["--steps", 100000, "--batch", 4, "--length", 16, "--save-seconds", 0, "--threads", 1]
    child = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    while "step 50/" not in child.stderr.readline():
        assert child.poll() is None
    child.kill()
    child.communicate()
    assert "the state of step" in what_remains(state_path(output))
    with pytest.raises(CheckpointError, match="interrupted run at step"):
        train(CONFIG, text, output, SETTINGS)
    assert state_path(output).exists()


def test_a_full_disk_is_a_warning_and_training_goes_on(
    text: Path, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.safetensors"
    save, calls, warnings = torch.save, [], []

    def full(*arguments: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) in (3, 4):
            raise RuntimeError("unexpected pos 182912 vs 182800")
        save(*arguments, **named)

    monkeypatch.setattr(torch, "save", full)
    result = train(CONFIG, text, output, SETTINGS, save_seconds=0, warn=warnings.append)
    assert result.steps == 12 and len(warnings) == 2 and "training goes on" in warnings[0]
    assert same(load_checkpoint(output).state_dict(), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "text.txt", "whole.safetensors"]


def test_a_disk_full_at_the_end_keeps_the_state_of_the_last_step(
    text: Path, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hsm_models import training

    def full(*_arguments: Any) -> None:
        raise CheckpointError("cannot write the checkpoint: No space left on device")

    output = tmp_path / "m.safetensors"
    monkeypatch.setattr(training, "save_checkpoint", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*the state of step 12 is saved"):
        train(CONFIG, text, output, SETTINGS)
    monkeypatch.undo()
    assert same(resumed(text, output), whole)


def test_a_terminal_that_is_gone_costs_no_state(text: Path, whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def gone() -> None:
        raise OSError(5, "Input/output error")

    output = tmp_path / "m.safetensors"
    with pytest.raises(OSError, match="Input/output"):
        train(CONFIG, text, output, SETTINGS, progress=at(5, gone))
    assert same(resumed(text, output), whole)


def test_ignored_signals_stay_ignored(text: Path, whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interruptible() as stop:
            train(CONFIG, text, output, SETTINGS, progress=at(5, send(signal.SIGHUP)), stop=stop)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert same(load_checkpoint(output).state_dict(), whole)


def test_a_fresh_run_never_touches_the_state_of_another(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, text, output, SETTINGS, stop=lambda: True)
    before = state_path(output).read_bytes()
    with pytest.raises(CheckpointError, match="interrupted run at step 1: continue it with --resume"):
        train(CONFIG, text, output, SETTINGS)
    assert state_path(output).read_bytes() == before


def test_steps_and_rate_may_change_and_are_said(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, text, output, SETTINGS, stop=lambda: True)
    other = TrainingSettings(**(vars(SETTINGS) | {"steps": 15, "lr": 1e-3}))
    said: list[str] = []
    result = train(CONFIG, text, output, other, resume=True, warn=said.append)
    assert result.steps == 15 and result.changed == (
        "steps 15 from step 1 on, 12 before",
        "lr 0.001 from step 1 on, 0.01 before",
    )
    assert len(said) == 2


def test_what_changes_the_past_is_refused_with_the_option(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, text, output, SETTINGS, stop=lambda: True)
    for change, message in (({"seed": 3}, "give --seed 0"), ({"batch": 2}, "give --batch 4")):
        settings = TrainingSettings(**(vars(SETTINGS) | change))
        with pytest.raises(ConfigError, match=message):
            train(CONFIG, text, output, settings, resume=True)


def test_a_resumed_command_takes_what_is_not_given_from_the_state(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, text, output, SETTINGS, stop=lambda: True)
    given = {"steps": 20, "lr": None, "batch": None}
    chosen = plan(None, tmp_path / "c.json", str(text), given, state=state_path(output))
    assert chosen.settings == TrainingSettings(**(vars(SETTINGS) | {"steps": 20}))
    with pytest.raises(CheckpointError, match="no training state"):
        plan(None, tmp_path / "c.json", str(text), given, state=tmp_path / "nothing")


def test_a_signal_in_the_last_evaluation_keeps_all_steps(
    text: Path, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.safetensors"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    evaluate = Trainer.evaluate

    def asked(self: Trainer, *arguments: Any, **named: Any) -> float:
        assert what_remains(state_path(output)).startswith("the state of step 12 is saved")  # a kill loses nothing
        send(signal.SIGTERM)()
        return evaluate(self, *arguments, **named)

    monkeypatch.setattr(Trainer, "evaluate", asked)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible() as stop:
            train(CONFIG, text, output, SETTINGS, stop=stop)
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.undo()
    assert not output.exists() and same(resumed(text, output), whole)


def test_a_lack_of_memory_saves_the_step_before_and_says_what_to_do(
    text: Path, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.safetensors"
    backward, calls = Trainer._backward, []

    def greedy(self: Trainer, *arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 6:
            torch.empty(1 << 60)
        return backward(self, *arguments)

    monkeypatch.setattr(Trainer, "_backward", greedy)
    with pytest.raises(ConfigError, match=r"does not fit the memory.*--accumulate.*the state of step 5 is saved"):
        train(CONFIG, text, output, SETTINGS)
    monkeypatch.undo()
    assert same(resumed(text, output), whole)


def test_divergence_keeps_the_state_before_it_and_claims_no_other(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    wild = TrainingSettings(**(vars(SETTINGS) | {"lr": 1e30, "warmup": 0}))
    with pytest.raises(ConfigError, match=r"diverged.*no state is saved"):
        train(CONFIG, text, output, wild)
    with pytest.raises(ConfigError, match=r"diverged.*the state of step \d+ is saved"):
        train(CONFIG, text, output, wild, save_seconds=0)


def test_other_data_and_threads_are_said_and_recorded(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, text, output, SETTINGS, stop=lambda: True)
    text.write_text(text.read_text().upper())
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    said: list[str] = []
    try:
        result = train(CONFIG, text, output, SETTINGS, resume=True, warn=said.append)
    finally:
        torch.set_num_threads(threads)
    assert [line.split()[2] for line in said] == ["data", "threads"]
    assert said[1] == f"continues with threads {threads + 1} from step 1 on, {threads} before"
    assert read_metadata(output)["changed"] == "; ".join(result.changed) and len(result.changed) == 2


def test_a_resumed_run_keeps_the_weights_that_it_began_with(text: Path, tmp_path: Path) -> None:
    first, output = tmp_path / "first.safetensors", tmp_path / "m.safetensors"
    train(CONFIG, text, first, SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        train(None, text, output, SETTINGS, init=first, stop=lambda: True)
    train(CONFIG, text, tmp_path / "other.safetensors", TrainingSettings(**(vars(SETTINGS) | {"seed": 3})))
    with pytest.raises(ConfigError, match="did not begin with the weights"):
        train(None, text, output, SETTINGS, init=tmp_path / "other.safetensors", resume=True)
    train(CONFIG, text, output, SETTINGS, resume=True)
    assert read_metadata(output)["trained_from"] == fingerprint(first)


def test_halves_of_states_that_a_killed_process_wrote_are_removed(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = (tmp_path / f".m.training-state.{process}" for process in (gone.pid, os.getppid()))
    for half in (dead, alive):
        half.write_bytes(b"half")
    train(CONFIG, text, output, SETTINGS)
    assert not dead.exists() and alive.exists()
