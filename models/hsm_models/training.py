"""Train a model from its configuration and a data file into a checkpoint; what `hsm-export train` calls."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .checkpoint import build_model, save_checkpoint
from .config import ModelConfig
from .data import load_data
from .errors import CheckpointError, ConfigError
from .trainer import Trainer, run
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
    """

    checkpoint: Path
    parameters: int
    steps: int
    loss: float | None
    metric: str
    held_out: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data."""
        return dataclasses.asdict(self) | {"checkpoint": str(self.checkpoint)}


def train(
    config: ModelConfig | str | Path,
    data: str | Path,
    output: str | Path,
    settings: TrainingSettings | None = None,
    *,
    resume: bool = False,
    state: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    extra: dict[str, str] | None = None,
) -> TrainingResult:
    """Train a model and write its checkpoint, with the held-out metric as measured in the file's metadata.

    Args:
        config: the model, or a JSON file that holds its configuration.
        data: text file, .npz file, or "digits"; see `hsm_models.data.load_data`.
        output: checkpoint to write: a single file if it ends in .safetensors, else a folder.
        settings: how to train; None takes the defaults.
        resume: continue from the saved state, to the same bits as without an interruption.
        state: where the resumable state is kept while training runs; None means `state_path(output)`.
        progress: called after each step.
        stop: asked after each step; when it says True the state is saved and KeyboardInterrupt raised.
        extra: more entries for the checkpoint's metadata.

    Raises:
        ConfigError: bad settings, a configuration that cannot be built or does not fit the data, or divergence.
        DataError: missing, malformed or too little data.
        CheckpointError: `resume` without a state of this very run, or an output that cannot be written.
        KeyboardInterrupt: `stop` said True; the state is on disk.
    """
    settings = settings or TrainingSettings()
    config = config if isinstance(config, ModelConfig) else read_model_config(config)
    output = Path(output)
    state = state_path(output) if state is None else Path(state)
    _check_writable(output, state)
    examples = load_data(config, data, settings.length, settings.level)
    torch.manual_seed(settings.seed)
    model = build_model(config)
    trainer = Trainer(model, examples, settings)
    if resume:
        trainer.load(state)
    losses: list[float] = []

    def note(news: Progress) -> None:
        losses[:] = [news.loss]
        if progress:
            progress(news)

    run(trainer, state, note, stop)
    held_out = trainer.evaluate()
    result = TrainingResult(
        checkpoint=output,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=trainer.step,
        loss=losses[0] if losses else None,
        metric=examples.metric,
        held_out=held_out,
        seconds=trainer.seconds,
    )
    metadata = _metadata(result, settings, Path(data).name) | examples.metadata() | (extra or {})
    save_checkpoint(model, output, metadata)
    state.unlink(missing_ok=True)
    return result


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
