"""Train a model from the command line without the toolkit: `python -m hsm_models.train --help`.

`hsm-export train` offers the same options with a progress bar; both choose and interrupt a run through this module.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from .config import ModelConfig
from .errors import ConfigError, ModelError
from .training import state_path, train
from .training_settings import HELP, Progress, TrainingSettings
from .zoo import recipes


@dataclass(frozen=True)
class Plan:
    """What a command line asks for, complete: arguments of `training.train`."""

    config: ModelConfig | Path
    data: str | Path
    settings: TrainingSettings


def plan(recipe: str | None, config: str | Path | None, data: str | Path | None, given: dict[str, Any]) -> Plan:
    """Complete the options of a command line, from a zoo recipe or from the defaults.

    Args:
        recipe: name of a zoo recipe, whose model, data and settings stand wherever no option says otherwise.
        config: JSON file with the model's configuration.
        data: the training data.
        given: settings by name; None means not given.

    Raises:
        ConfigError: no such recipe, neither a recipe nor both config and data, or a setting out of range.
        DataError: the recipe's data cannot be fetched.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if recipe is not None:
        known = recipes.get(recipe)
        return Plan(
            Path(config) if config else known.config,
            data or recipes.data_path(known),
            dataclasses.replace(known.settings, **chosen),
        )
    if config is None or data is None:
        raise ConfigError("give a model configuration and training data (--config and --data), or a --recipe")
    return Plan(Path(config), data, TrainingSettings(**chosen))


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question that training asks after each step; a second one interrupts at once."""
    asked = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 good, 2 usage, 4 bad input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    given = {name: getattr(options, name) for name in HELP}
    try:
        chosen = plan(options.recipe, options.config, options.data, given)
        with interruptible() as stop:
            result = train(
                chosen.config,
                chosen.data,
                options.output,
                chosen.settings,
                resume=options.resume,
                progress=_print_progress,
                stop=stop,
            )
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print(f"interrupted; --resume continues from {state_path(options.output)}", file=sys.stderr)
        return 130
    print(json.dumps(result.to_dict(), indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hsm_models.train", description="Train a model into a checkpoint.")
    parser.add_argument("--recipe", metavar="NAME", help="zoo recipe, instead of --config and --data")
    parser.add_argument("--config", type=Path, metavar="FILE", help="model configuration (JSON)")
    parser.add_argument("--data", metavar="FILE", help="text file, .npz of labelled sequences, or digits")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PATH", help="checkpoint to write")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    for field in dataclasses.fields(TrainingSettings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), help=f"{HELP[field.name]} (default: {field.default})")
    return parser


def _print_progress(news: Progress) -> None:
    """Print a line every 50 steps and whenever the held-out data were looked at."""
    if news.step % 50 and news.step != news.steps and news.held_out is None:
        return
    held_out = "" if news.held_out is None else f"  held out {news.held_out:.4f}"
    print(f"step {news.step}/{news.steps}  loss {news.loss:.4f}{held_out}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
