"""Train a model from its configuration and a data file into a checkpoint; what `hsm-export train` calls."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .checkpoint import build_model, fingerprint, load_checkpoint, read_config, save_checkpoint
from .config import ModelConfig
from .data import load_data
from .errors import CheckpointError, ConfigError
from .interruption import what_remains
from .metrics import MetricsFile, TensorBoard
from .trainer import Trainer, run, saved_step
from .training_settings import Progress, TrainingSettings

__all__ = ["Progress", "TrainingResult", "TrainingSettings", "read_model_config", "state_path", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training run made.

    Attributes:
        checkpoint: the file or folder written.
        parameters: number of trained parameters.
        steps: optimiser steps in all, over every resumed part.
        loss: cross-entropy of the last batch in nats; None when nothing was left to do.
        metric: "bits_per_byte", "bits_per_character" or "accuracy".
        held_out: that metric over the whole held-out part.
        seconds: wall-clock seconds spent in training steps, over every resumed part.
        changed: settings that differ between the resumed parts, in words.
    """

    checkpoint: Path
    parameters: int
    steps: int
    loss: float | None
    metric: str
    held_out: float
    seconds: float
    changed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data."""
        return dataclasses.asdict(self) | {"checkpoint": str(self.checkpoint)}


def train(
    config: ModelConfig | str | Path | None,
    data: str | Path,
    output: str | Path,
    settings: TrainingSettings | None = None,
    *,
    resume: bool = False,
    init: str | Path | None = None,
    state: str | Path | None = None,
    save_seconds: float | None = None,
    device: str = "cpu",
    metrics: str | Path | None = None,
    tensorboard: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    warn: Callable[[str], None] = warnings.warn,
    extra: dict[str, str] | None = None,
) -> TrainingResult:
    """Train a model and write its checkpoint, with the held-out metric as measured in the file's metadata.

    Args:
        config: the model, or a JSON file that holds its configuration; None with `init`.
        data: text file, .npy file of ids, .npz file, or "digits"; see `hsm_models.data.load_data`.
        output: checkpoint to write: a single file if it ends in .safetensors, else a folder.
        settings: how to train; None takes the defaults.
        resume: continue from the saved state, to the same bits as without an interruption; settings in `CHANGEABLE`
            may be others from there on.
        init: a checkpoint (or "zoo:NAME") whose weights training starts from, such as an import: fine-tuning.
        state: where the resumable state is kept while training runs; None means `state_path(output)`.
        save_seconds: seconds between two saved states, 60 by default; a kill loses at most these.
        device: where to train, such as "cuda".
        metrics: a file for one JSON object a step; see `metrics.MetricsFile`.
        tensorboard: a folder for TensorBoard's files, if that package is installed.
        progress: called after each step.
        stop: asked after each step; when it says True the state is saved and KeyboardInterrupt raised.
        warn: told of what does not end the run: a state or metrics that cannot be written.
        extra: more entries for the checkpoint's metadata.

    Raises:
        ConfigError: bad settings, a configuration that cannot be built or does not fit the data or the checkpoint, a
            device that cannot be used, or divergence.
        DataError: missing, malformed or too little data.
        CheckpointError: `resume` without a state of this very run, a state of another run without `resume`, or an
            output that cannot be written; the state then stays.
        KeyboardInterrupt: `stop` said True, or Ctrl-C; `interruption.what_remains` says what is on disk.
    """
    settings = settings or TrainingSettings()
    output = Path(output)
    state = state_path(output) if state is None else Path(state)
    _check_writable(output, state)
    if not resume:
        _refuse_another_state(state)
    model_config = _model_config(config, init)
    examples = load_data(model_config, data, settings.length, settings.level)
    torch.manual_seed(settings.seed)
    model = build_model(model_config) if init is None else load_checkpoint(init).train()
    trainer = Trainer(model, examples, settings, device)
    changed = trainer.load(state) if resume else []
    for change in changed:
        warn(f"continues with {change}")
    listeners: list[Callable[[Progress], None]] = [progress] if progress else []
    if metrics is not None:
        listeners.append(MetricsFile(metrics, trainer.step, warn))
    board = TensorBoard(tensorboard) if tensorboard is not None else None
    if board is not None:
        listeners.append(board)
    losses: list[float] = []

    def note(news: Progress) -> None:
        losses[:] = [news.loss]
        for listener in listeners:
            listener(news)

    try:
        run(trainer, state, note, stop, warn, save_seconds)
    finally:
        if board is not None:
            board.close()
    result = TrainingResult(
        checkpoint=output,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=trainer.step,
        loss=losses[0] if losses else None,
        metric=examples.metric,
        held_out=trainer.evaluate(),
        seconds=trainer.seconds,
        changed=tuple(changed),
    )
    metadata = _metadata(result, settings, Path(data).name) | examples.metadata() | (extra or {})
    if init is not None:
        metadata["trained_from"] = fingerprint(init)
    _finish(trainer, output, state, metadata)
    return result


def _finish(trainer: Trainer, output: Path, state: Path, metadata: dict[str, str]) -> None:
    """Write the checkpoint and remove the state; if the disk does not take it, keep the state of the last step."""
    model: Any = trainer.model
    try:
        save_checkpoint(model, output, metadata)
    except CheckpointError as error:
        with contextlib.suppress(CheckpointError):
            trainer.save(state)
        raise CheckpointError(f"{error}; {what_remains(state)}") from error
    state.unlink(missing_ok=True)


def _refuse_another_state(state: Path) -> None:
    """Refuse to start anew over the state of an interrupted run, which the end of the new run would remove."""
    if state.exists():
        step = saved_step(state)
        what = "a file that is no training state" if step is None else f"the state of an interrupted run at step {step}"
        raise CheckpointError(f"{state} is {what}: continue it with --resume, or move or delete it to start anew")


def _model_config(config: ModelConfig | str | Path | None, init: str | Path | None) -> ModelConfig:
    """Return the model's configuration, from a file or from the checkpoint that training starts from."""
    chosen = config if isinstance(config, ModelConfig) or config is None else read_model_config(config)
    if init is None:
        if chosen is None:
            raise ConfigError("give a model configuration, or a checkpoint to start from (init)")
        return chosen
    found = read_config(init)
    if chosen is not None and chosen != found:
        raise ConfigError(f"the configuration is not the one of {init}, whose weights training is to start from")
    return found


def state_path(output: str | Path) -> Path:
    """Return where the resumable state of a run is kept by default: beside its output."""
    output = Path(output)
    return output.with_name(output.name.removesuffix(".safetensors") + ".training-state")


def read_model_config(path: str | Path) -> ModelConfig:
    """Read a configuration from a JSON file.

    Raises:
        ConfigError: the file cannot be read or is no model configuration.
    """
    try:
        return ModelConfig.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the model configuration {path}: {error}") from error


def _metadata(result: TrainingResult, settings: TrainingSettings, data: str) -> dict[str, str]:
    """Describe the run, for the checkpoint's metadata."""
    return {
        "data": data,
        "metric": result.metric,
        "held_out": f"{result.held_out:.4f}",
        "parameters": str(result.parameters),
        "train_seconds": f"{result.seconds:.0f}",
        "settings": json.dumps(dataclasses.asdict(settings)),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{torch.get_num_threads()} of {os.cpu_count()} shared {platform.machine()} cores",
    }


def _check_writable(output: Path, state: Path) -> None:
    """Refuse an output that could not be written, before hours are spent on it."""
    for path in (output, state):
        if not path.parent.is_dir():
            raise CheckpointError(f"cannot write {path}: the directory {path.parent} does not exist")
        if not os.access(path.parent, os.W_OK):
            raise CheckpointError(f"cannot write {path}: permission denied")
    if output.suffix == ".safetensors" and output.is_dir():
        raise CheckpointError(f"cannot write {output}: it is a directory")
