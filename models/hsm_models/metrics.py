"""What a run measured, written while it trains: JSON lines, and TensorBoard's files where that package is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .training_settings import Progress

FIELDS = ("step", "loss", "learning_rate", "held_out", "seconds")


class MetricsFile:
    """One JSON object a line for each step: step, loss (nats), learning_rate, held_out or null, and seconds.

    A disk that does not take a line costs the lines, not the run.

    Args:
        path: the file. A resumed run keeps the lines of the steps that it continues from; a fresh one starts it anew.
        step: steps that were taken before.
        warn: told once when the file cannot be written.

    Raises:
        ConfigError: the file cannot be made.
    """

    def __init__(self, path: str | Path, step: int, warn: Callable[[str], None]) -> None:
        self._path, self._warn, self._broken = Path(path), warn, False
        try:
            kept = _lines_until(self._path, step) if step else []
            self._path.write_text("".join(kept), encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot write the metrics {path}: {error}") from error

    def __call__(self, news: Progress) -> None:
        """Append a step."""
        if self._broken:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({name: getattr(news, name) for name in FIELDS}) + "\n")
        except OSError as error:
            self._broken = True
            self._warn(f"cannot write the metrics {self._path}: {error}; training goes on without them")


class TensorBoard:
    """The same numbers as TensorBoard's scalars; a disk that does not take them costs them, not the run.

    Args:
        folder: where its files go.
        warn: told once when they cannot be written.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path, warn: Callable[[str], None]) -> None:
        self._folder, self._warn, self._broken = folder, warn, False
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ConfigError(f"TensorBoard's files need the package {error.name}: pip install tensorboard") from error
        try:
            self._writer: Any = SummaryWriter(str(folder))
        except OSError as error:
            raise ConfigError(f"cannot write TensorBoard's files in {folder}: {error}") from error

    def __call__(self, news: Progress) -> None:
        """Add a step."""
        for name in ("loss", "learning_rate", "held_out"):
            if (value := getattr(news, name)) is not None:
                self._try(self._writer.add_scalar, name, value, news.step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._try(self._writer.close)

    def _try(self, act: Callable[..., Any], *arguments: Any) -> None:
        if self._broken:
            return
        try:
            act(*arguments)
        except OSError as error:
            self._broken = True
            self._warn(f"cannot write TensorBoard's files in {self._folder}: {error}; training goes on without them")


def _lines_until(path: Path, step: int) -> list[str]:
    """Return the whole lines of an earlier part up to a step; the steps behind it are taken again."""
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            number = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n") or number > step:
            break
        kept.append(line)
    return kept
