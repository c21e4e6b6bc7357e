"""The training loop: AdamW, linear warm-up and cosine decay, gradient clipping; seeded, and resumable to the same bits.

Every step draws its batch from a generator seeded by (seed, step), and the saved state holds the weights and the
optimiser's moments. So an interrupted run that resumes takes exactly the steps that an uninterrupted run takes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import ModelConfig
from .data import Tally, TrainingData
from .errors import CheckpointError, ConfigError
from .training_settings import Progress, TrainingSettings

SAVE_SECONDS = 60.0


class Trainer:
    """A model, its optimiser, its data and the number of steps taken.

    Args:
        model: module that maps a batch's inputs to logits (..., classes) in float32.
        data: batches to train and to evaluate on.
        settings: how to train.
    """

    # Looks during training read only this many held-out examples; the final figure reads all of them.
    QUICK_LOOK = 64

    def __init__(self, model: nn.Module, data: TrainingData, settings: TrainingSettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, settings.beta2)
        )
        self.step = 0
        self.seconds = 0.0

    def advance(self) -> Progress:
        """Take one optimiser step.

        Raises:
            ConfigError: the loss is not finite any more.
        """
        started = time.perf_counter()
        rate = self.settings.learning_rate_at(self.step)
        loss = self._update(rate)
        self.step += 1
        self.seconds += time.perf_counter() - started
        every = self.settings.evaluate_every
        look = every and self.step % every == 0 and self.step < self.settings.steps
        held_out = self.evaluate(self.QUICK_LOOK) if look else None
        return Progress(self.step, self.settings.steps, loss, rate, held_out)

    def _update(self, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        inputs, targets = self.data.batch(self.settings.batch, generator)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model(*inputs), targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise ConfigError(
                f"training diverged: the loss or its gradient is not finite at step {self.step}; "
                f"use a learning rate below {self.settings.lr:g}"
            )
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, limit: int | None = None) -> float:
        """Return the data's metric over the held-out part, or over its first `limit` examples."""
        self.model.eval()
        loss, hits, count = 0.0, 0, 0
        for inputs, targets in self.data.held_out(32, limit):
            logits = self.model(*inputs)
            loss += cross_entropy(logits, targets, "sum").item()
            hits += int((logits.argmax(-1) == targets).sum())
            count += targets.numel()
        return self.data.measure(Tally(loss, hits, count))

    def save(self, path: str | Path) -> None:
        """Write the resumable state: a file that `torch.load(weights_only=True)` takes."""
        path = Path(path)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        state = {
            "settings": json.dumps(dataclasses.asdict(self.settings)),
            "config": _config_json(self.model),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        try:
            torch.save(state, scratch)
            scratch.replace(path)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot write the training state {path}: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def load(self, path: str | Path) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: no such file, or no training state.
            ConfigError: the state belongs to another model or to other settings.
        """
        state = _read_state(Path(path))
        _require(state["config"] == _config_json(self.model), f"{path} is the state of a model with another config")
        saved = json.loads(state["settings"])
        differing = [name for name, value in dataclasses.asdict(self.settings).items() if saved.get(name) != value]
        _require(not differing, f"{path} was started with other settings: {', '.join(differing)}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def run(
    trainer: Trainer,
    state: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Take all remaining steps, saving the state about once a minute.

    Args:
        trainer: what to train; continues at its current step.
        state: where to keep the resumable state; None keeps none.
        progress: called after each step.
        stop: asked after each step; when it says True the state is saved and KeyboardInterrupt raised.
    """
    saved = time.monotonic()
    while trainer.step < trainer.settings.steps:
        news = trainer.advance()
        if progress:
            progress(news)
        stopping = stop is not None and stop()
        if state is not None and (stopping or time.monotonic() - saved > SAVE_SECONDS):
            trainer.save(state)
            saved = time.monotonic()
        if stopping:
            raise KeyboardInterrupt


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats of logits (..., classes) against targets (...)."""
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction=reduction)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those that decay (matrices) and those that do not (all else and every embedding)."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = sum(size > 1 for size in parameter.shape) >= 2
        (decayed if is_matrix and id(parameter) not in embeddings else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _config_json(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return config.to_json() if isinstance(config, ModelConfig) else ""


def _read_state(path: Path) -> dict[str, Any]:
    keys = {"settings", "config", "step", "seconds", "model", "optimizer"}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no training state {path} to resume from") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged or no training state") from error
    if not isinstance(state, dict) or set(state) != keys:
        raise CheckpointError(f"{path} is no training state")
    return state


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
