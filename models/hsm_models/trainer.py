"""The training loop: AdamW, linear warm-up and cosine decay, gradient clipping; seeded, and resumable to the same bits.

Every step draws its batch from a generator seeded by (seed, step), and the saved state holds the weights and the
optimiser's moments. So an interrupted run that resumes takes exactly the steps that an uninterrupted run takes. The
state also holds what else its numbers depend on (the data, threads, the device, PyTorch): what differs is said.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import ModelConfig
from .data import Tally, TrainingData
from .errors import CheckpointError, ConfigError
from .regularising import Regulariser
from .training_settings import CHANGEABLE, Progress, TrainingSettings

# Seconds between two saved states: what a run loses at most when it is killed.
SAVE_SECONDS = 60.0


class Trainer:
    """A model, its optimiser, its data and the number of steps taken.

    Args:
        model: module that maps a batch's inputs to logits (..., classes) in float32.
        data: batches to train and to evaluate on.
        settings: how to train.
        device: where the model and its batches are.
        conditions: what else the numbers depend on, in words by name; `load` says what differs.

    Attributes:
        changed: settings and conditions that differ between the resumed parts, in words.

    Raises:
        ConfigError: there is no such device.
    """

    # Looks during training read only this many held-out examples; the final figure reads all of them.
    QUICK_LOOK = 64

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        settings: TrainingSettings,
        device: str = "cpu",
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        self.device = _device(device)
        self.conditions = dict(conditions or {})
        self.changed: list[str] = []
        self.model, self.data, self.settings = model.to(self.device), data, settings
        self.regulariser = Regulariser(model, settings.dropout, settings.entropy)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, settings.beta2)
        )
        self.step = 0
        self.seconds = 0.0
        # While the optimiser changes the weights, they belong to no step and cannot be saved.
        self.whole = True

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
        return Progress(self.step, self.settings.steps, loss, rate, held_out, self.seconds)

    def _update(self, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed = self.settings.seed * 1_000_003 + self.step
        inputs, targets = self.data.batch(self.settings.batch, torch.Generator().manual_seed(seed))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self._backward(*part, len(targets)) for part in self._parts(inputs, targets, seed))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise ConfigError(
                f"training diverged: the loss or its gradient is not finite at step {self.step}; "
                f"use a learning rate below {self.settings.lr:g}"
            )
        self.whole = False
        self.optimizer.step()
        self.whole = True
        return loss

    def _parts(self, inputs: tuple[Tensor, ...], targets: Tensor, seed: int) -> Iterator[tuple[Any, Tensor]]:
        """Yield the parts of a batch that are computed one after the other, on the device."""
        if self.settings.dropout:
            torch.manual_seed(seed)  # as at every resumed step
        count = -(-len(targets) // self.settings.accumulate)
        for start in range(0, len(targets), count):
            part = slice(start, start + count)
            yield tuple(item[part].to(self.device) for item in inputs), targets[part].to(self.device)

    def _backward(self, inputs: tuple[Tensor, ...], targets: Tensor, examples: int) -> float:
        """Add the gradient of a part to those of the others; return its share of the loss."""
        with self._autocast(), self.regulariser:
            logits = self.model(*inputs)
        share = len(targets) / examples
        loss = cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, targets) * share
        (loss + self.regulariser.penalty() * share).backward()
        return loss.item()

    def _autocast(self) -> torch.autocast:
        enabled = self.settings.autocast == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @torch.no_grad()
    def evaluate(self, limit: int | None = None, stop: Callable[[], bool] | None = None) -> float:
        """Return the data's metric over the held-out part, or over its first `limit` examples.

        Raises:
            KeyboardInterrupt: `stop`, which is asked before each batch, said True.
        """
        self.model.eval()
        loss, hits, count = 0.0, 0, 0
        for inputs, targets in self.data.held_out(32, limit):
            if stop is not None and stop():
                raise KeyboardInterrupt
            targets = targets.to(self.device)
            logits = self.model(*(item.to(self.device) for item in inputs))
            loss += cross_entropy(logits, targets, "sum").item()
            hits += int((logits.argmax(-1) == targets).sum())
            count += targets.numel()
        return self.data.measure(Tally(loss, hits, count))

    def save(self, path: str | Path) -> None:
        """Write the resumable state: a file that `torch.load(weights_only=True)` takes."""
        path = Path(path)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        _remove_leftovers(path)
        state = {
            "settings": json.dumps(dataclasses.asdict(self.settings)),
            "config": _config_json(self.model),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "conditions": self.conditions,
            "changed": self.changed,
        }
        try:
            torch.save(state, scratch)
            scratch.replace(path)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot write the training state {path}: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def load(self, path: str | Path) -> list[str]:
        """Continue from a saved state.

        Returns:
            Settings and conditions that differ from those of the steps taken, in words; of settings only `CHANGEABLE`
            ones may.

        Raises:
            CheckpointError: no such file, or no training state.
            ConfigError: the state belongs to another model or to other settings, or is beyond the last step.
        """
        state = _read_state(Path(path))
        _require(state["config"] == _config_json(self.model), f"{path} is the state of a model with another config")
        # Settings that are younger than the state had their default.
        saved = dataclasses.asdict(TrainingSettings()) | json.loads(state["settings"])
        differing = {name: value for name, value in vars(self.settings).items() if saved[name] != value}
        fixed = [name for name in differing if name not in CHANGEABLE]
        options = ", ".join(f"--{name.replace('_', '-')} {saved[name]}" for name in fixed)
        _require(not fixed, f"{path} was started with other settings: {', '.join(fixed)}; give {options}")
        step = int(state["step"])
        _require(step <= self.settings.steps, f"{path} has taken {step} steps already: give --steps above that")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = step, float(state["seconds"])
        before = state.get("conditions", {})
        self.conditions = before | self.conditions
        now = differing | {name: value for name, value in self.conditions.items() if before.get(name, value) != value}
        saved |= before
        news = [f"{name} {value} from step {step} on, {saved[name]} before" for name, value in now.items()]
        self.changed = [*state.get("changed", []), *news]
        return news


def run(
    trainer: Trainer,
    state: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    warn: Callable[[str], None] = warnings.warn,
    save_seconds: float | None = None,
) -> None:
    """Take all remaining steps, saving the state about once a minute and when the run is interrupted.

    Args:
        trainer: what to train; continues at its current step.
        state: where to keep the resumable state; None keeps none.
        progress: called after each step.
        stop: asked after each step; when it says True the state is saved and KeyboardInterrupt raised.
        warn: told of a state that cannot be saved, after which training goes on.
        save_seconds: seconds between two saved states; None means SAVE_SECONDS.

    Raises:
        KeyboardInterrupt: `stop` said True, or an interruption in the middle of a step; the state of the last whole
            step is saved, unless the disk does not take it or the interruption hit the update of the weights itself.
            So it is when anything else ends the run, such as a lack of memory.
        ConfigError: divergence; the state that was saved before stays.
    """
    saved = time.monotonic()
    every = SAVE_SECONDS if save_seconds is None else save_seconds
    with keeping_state(trainer, state, warn):
        while trainer.step < trainer.settings.steps:
            news = trainer.advance()
            if progress:
                progress(news)
            if stop is not None and stop():
                raise KeyboardInterrupt
            if state is not None and time.monotonic() - saved > every:
                keep_state(trainer, state, warn)
                saved = time.monotonic()


@contextmanager
def keeping_state(trainer: Trainer, state: str | Path | None, warn: Callable[[str], None]) -> Iterator[None]:
    """Save the state of the last whole step when what stands inside ends early, but for divergence."""
    try:
        yield
    except ConfigError:  # the weights led to no numbers: the state before them is worth more
        raise
    except BaseException:
        if state is not None and trainer.whole and trainer.step:
            keep_state(trainer, state, warn)
        raise


def keep_state(trainer: Trainer, state: str | Path, warn: Callable[[str], None]) -> None:
    """Save the state, or say why not: a full disk costs the state, not the run."""
    try:
        trainer.save(state)
    except CheckpointError as error:
        before = ", and the state before it stays" if Path(state).exists() else ""
        warn(f"{error}; training goes on{before}")


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
    keys = {"settings", "config", "step", "seconds", "model", "optimizer"}  # and what older states lack
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no training state {path} to resume from") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged or no training state") from error
    if not isinstance(state, dict) or not keys <= set(state):
        raise CheckpointError(f"{path} is no training state")
    return state


def _remove_leftovers(path: Path) -> None:
    """Remove the halves of states that killed processes were writing."""
    for half in path.parent.glob(f".{path.name}.*"):
        process = half.name.rpartition(".")[2]
        if process.isdecimal() and _is_gone(int(process)):
            half.unlink(missing_ok=True)


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def saved_step(path: str | Path) -> int | None:
    """Return the step of a saved state, or None if there is no state that could be resumed."""
    try:
        return int(_read_state(Path(path))["step"])
    except CheckpointError:
        return None


def saved_settings(path: str | Path) -> dict[str, Any]:
    """Return the settings of a saved state by name; raises CheckpointError as `Trainer.load`."""
    settings: dict[str, Any] = json.loads(_read_state(Path(path))["settings"])
    return settings


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"the device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
