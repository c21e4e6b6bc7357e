"""Train a model from its configuration and a data file into a checkpoint; what `hsm-export train` calls."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .checkpoint import (
    build_model,
    fingerprint,
    load_checkpoint,
    read_config,
    read_metadata,
    resolve,
    save_checkpoint,
)
from .config import ModelConfig
from .data import TrainingData, is_ids, load_data
from .errors import CheckpointError, ConfigError
from .interruption import what_remains
from .metrics import MetricsFile, TensorBoard
from .tokenizer_files import put_beside, tokenizer_beside
from .trainer import Trainer, keep_state, keeping_state, run, saved_step
from .training_settings import Progress, TrainingSettings

BYTES = 256  # ids of a model whose tokens are the bytes of a text

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
        changed: settings and conditions that differ between the resumed parts, in words.
        tokenizer: the copy of the ids' tokenizer that belongs to the checkpoint; None without one.
    """

    checkpoint: Path
    parameters: int
    steps: int
    loss: float | None
    metric: str
    held_out: float
    seconds: float
    changed: tuple[str, ...] = ()
    tokenizer: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data."""
        tokenizer = None if self.tokenizer is None else str(self.tokenizer)
        return dataclasses.asdict(self) | {"checkpoint": str(self.checkpoint), "tokenizer": tokenizer}


def train(
    config: ModelConfig | str | Path | None,
    data: str | Path,
    output: str | Path,
    settings: TrainingSettings | None = None,
    *,
    resume: bool = False,
    init: str | Path | None = None,
    tokenizer: str | Path | None = None,
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
        tokenizer: the file of the tokenizer that made the ids, which is copied into or beside the checkpoint; that of
            `init` by default.
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
            device that cannot be used, too little memory, or divergence.
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
    words = _tokenizer(tokenizer, init, data)
    alphabet = "" if init is None else _alphabet(init, model_config, data, settings)
    examples = load_data(model_config, data, settings.length, settings.level, alphabet)
    torch.manual_seed(settings.seed)
    model = build_model(model_config) if init is None else load_checkpoint(init).train()
    trainer = Trainer(model, examples, settings, device, _conditions(examples, device))
    if resume:
        for change in trainer.load(state):
            warn(f"continues with {change}")
    _note_origin(trainer, init)
    losses: list[float] = []
    with _listeners(trainer, progress, metrics, tensorboard, warn) as listeners, _explained(state, settings):
        run(trainer, state, lambda news: _tell(news, losses, listeners), stop, warn, save_seconds)
        with keeping_state(trainer, state, warn):
            keep_state(trainer, state, warn)  # a large held-out part takes long
            held_out = trainer.evaluate(stop=stop)
    result = TrainingResult(
        checkpoint=output,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=trainer.step,
        loss=losses[-1] if losses else None,
        metric=examples.metric,
        held_out=held_out,
        seconds=trainer.seconds,
        changed=tuple(trainer.changed),
    )
    metadata = _metadata(result, settings, Path(data).name) | examples.metadata() | (extra or {})
    if trainer.conditions["init"]:
        metadata["trained_from"] = trainer.conditions["init"]
    return _finish(trainer, result, state, metadata, words)


def _tell(news: Progress, losses: list[float], listeners: list[Callable[[Progress], None]]) -> None:
    losses[:] = [news.loss]
    for listener in listeners:
        listener(news)


@contextlib.contextmanager
def _listeners(
    trainer: Trainer,
    progress: Callable[[Progress], None] | None,
    metrics: str | Path | None,
    tensorboard: str | Path | None,
    warn: Callable[[str], None],
) -> Iterator[list[Callable[[Progress], None]]]:
    """Open what is told of each step, and close it."""
    listeners: list[Callable[[Progress], None]] = [progress] if progress else []
    if metrics is not None:
        listeners.append(MetricsFile(metrics, trainer.step, warn))
    if tensorboard is None:
        yield listeners
        return
    board = TensorBoard(tensorboard, warn)
    try:
        yield [*listeners, board]
    finally:
        board.close()


@contextlib.contextmanager
def _explained(state: Path, settings: TrainingSettings) -> Iterator[None]:
    """Say of divergence and of a lack of memory what to do, and what can be resumed."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}; {what_remains(state)}") from error
    except (MemoryError, RuntimeError) as error:
        reason = (str(error).strip() or "MemoryError").splitlines()[0]
        if not isinstance(error, MemoryError) and not re.search(r"alloc|out of memory", reason):
            raise
        raise ConfigError(
            f"a step of {settings.batch} examples does not fit the memory ({reason}): --accumulate computes it in "
            f"parts, --batch makes it smaller; {what_remains(state)}"
        ) from error


def _tokenizer(given: str | Path | None, init: str | Path | None, data: str | Path) -> Path | None:
    """Return the tokenizer of the ids that are trained on."""
    if given is None:
        return tokenizer_beside(resolve(init)) if init is not None and is_ids(data) else None
    if not is_ids(data):
        raise ConfigError(f"the tokenizer {given} belongs to ids, an .npy file; {data} is none")
    if not Path(given).is_file():
        raise ConfigError(f"there is no tokenizer {given}")
    return Path(given)


def _alphabet(init: str | Path, config: ModelConfig, data: str | Path, settings: TrainingSettings) -> str:
    """Return the characters that a checkpoint was trained on, "" for bytes and ids; refuse symbols of another kind."""
    if config.task != "language_model":
        return ""
    metadata = read_metadata(resolve(init))
    known, given = metadata.get("level"), "token" if is_ids(data) else settings.level
    if known is None and given != "token" and config.vocab_size != BYTES:
        raise ConfigError(
            f"{init} has {config.vocab_size:,} tokens, whose texts it does not tell, so {data} cannot be read as "
            f"{given}s: give the ids of its tokenizer, written with numpy.save, as --data NAME.npy"
        )
    if known not in (None, given):
        way = "the ids of its tokenizer, an .npy file" if known == "token" else f"--level {known} and a text"
        raise ConfigError(f"{init} was trained on {known}s, and the training data are {given}s: give {way}")
    return str(json.loads(metadata["vocabulary"])) if known == "char" else ""


def _conditions(examples: TrainingData, device: str) -> dict[str, str]:
    """Return what a step's bits depend on besides the settings."""
    threads = str(torch.get_num_threads())
    return {"data": examples.identity(), "threads": threads, "device": device, "PyTorch": str(torch.__version__)}


def _note_origin(trainer: Trainer, init: str | Path | None) -> None:
    """Remember whose weights the run began with, "" for none; a resumed run's state knows them."""
    given = None if init is None else fingerprint(init)
    began = trainer.conditions.setdefault("init", given or "")
    if given not in (None, began):
        raise ConfigError(
            f"the run did not begin with the weights of {init}: leave it out, or name the one it began with"
        )


def _finish(
    trainer: Trainer, result: TrainingResult, state: Path, metadata: dict[str, str], tokenizer: Path | None
) -> TrainingResult:
    """Write the checkpoint and remove the state; if the disk does not take it, keep the state of the last step."""
    model: Any = trainer.model
    try:
        save_checkpoint(model, result.checkpoint, metadata)
        if tokenizer is not None:
            result = dataclasses.replace(result, tokenizer=put_beside(tokenizer, result.checkpoint))
    except (CheckpointError, OSError) as error:
        with contextlib.suppress(CheckpointError):
            trainer.save(state)
        raise CheckpointError(f"{error}; {what_remains(state)}") from error
    state.unlink(missing_ok=True)
    return result


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
        **({"changed": "; ".join(result.changed)} if result.changed else {}),
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
