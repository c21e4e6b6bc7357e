"""How to train: settings that command lines turn into options and that saved states remember. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import ConfigError

Level = Literal["byte", "char"]
Autocast = Literal["none", "bf16"]
CHOICES: dict[str, tuple[str, ...]] = {"level": ("byte", "char"), "autocast": ("none", "bf16")}
# What a resumed run may change: the steps that were taken stay what they were.
CHANGEABLE = ("steps", "lr", "final_fraction", "warmup", "clip", "evaluate_every", "dropout", "entropy")

HELP = {
    "steps": "optimiser steps in all",
    "batch": "examples per step",
    "length": "symbols per example of text",
    "lr": "peak learning rate",
    "final_fraction": "last learning rate as a fraction of the peak",
    "warmup": "steps of linear warm-up",
    "weight_decay": "decoupled decay of matrices; vectors, scalars and embeddings have none",
    "beta2": "decay of AdamW's second moment",
    "clip": "largest global norm of the gradient",
    "seed": "seed of the initial weights and of the batches",
    "level": "symbols of text: byte or char",
    "evaluate_every": "steps between looks at held-out data; 0 looks at the end only",
    "accumulate": "parts that a batch is computed in, one after the other: the same step in less memory",
    "dropout": "fraction of each mixer's and feed-forward network's output that is dropped in training",
    "entropy": "weight of SwitchHead's and SwitchAll's regulariser: the entropy of the mean choice of experts",
    "autocast": "type of the matrix products in training: none (float32) or bf16",
}

# What a run needs besides, which no state remembers: it changes where and how fast, not what is trained.
RUNNING = {
    "tokenizer": "file of the tokenizer that made the ids; it goes with the checkpoint (default: the recipe's, or that "
    "of --init)",
    "device": "where to train: cpu, cuda, cuda:1, …",
    "threads": "threads of PyTorch; on a busy machine fewer are faster",
    "save_seconds": "seconds between two saved states, which a kill loses at most (default: 60)",
    "metrics": "file for one line of JSON a step: step, loss, learning_rate, held_out, seconds",
    "tensorboard": "folder for TensorBoard's files, if that package is installed",
}


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; part of the saved state. A resumed run may differ in `CHANGEABLE`, which is said, and in no other.

    `HELP` describes each field, here and in the command lines.

    Raises:
        ConfigError: a value out of range.
    """

    steps: int = 1000
    batch: int = 16
    length: int = 256
    lr: float = 3e-3
    final_fraction: float = 0.05
    warmup: int = 50
    weight_decay: float = 0.1
    beta2: float = 0.99
    clip: float = 1.0
    seed: int = 0
    level: Level = "byte"
    evaluate_every: int = 0
    accumulate: int = 1
    dropout: float = 0.0
    entropy: float = 0.0
    autocast: Autocast = "none"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "accumulate"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "evaluate_every"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"{name} must be positive and finite, got {value}")
        _require(0 <= self.seed < 2**32, f"seed must lie in [0, 2^32), got {self.seed}")
        _require(0 <= self.final_fraction <= 1, f"final_fraction must lie in [0, 1], got {self.final_fraction}")
        _require(0 <= self.weight_decay < math.inf, f"weight_decay must not be negative, got {self.weight_decay}")
        _require(0 <= self.beta2 < 1, f"beta2 must lie in [0, 1), got {self.beta2}")
        _require(self.accumulate <= self.batch, f"accumulate must be at most batch {self.batch}, got {self.accumulate}")
        _require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")
        _require(0 <= self.entropy < math.inf, f"entropy must not be negative, got {self.entropy}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, f"{name} must be {' or '.join(choices)}, got {value!r}")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of step 0, 1, …: linear warm-up, then half a cosine down to the final fraction."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Progress:
    """One step's news, for a progress bar or a log.

    Attributes:
        step: steps taken, out of `steps`.
        loss: this batch's cross-entropy in nats.
        learning_rate: of this step.
        held_out: the metric over a part of the held-out data, on the steps that look at it.
        seconds: time spent in steps so far, over every resumed part.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    held_out: float | None = None
    seconds: float = 0.0


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
