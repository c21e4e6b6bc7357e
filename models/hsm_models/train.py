"""Train a model from the command line without the toolkit: `python -m hsm_models.train --help`.

`hsm-export train` offers the same options with a progress bar; both choose and interrupt a run through this module.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import ModelConfig
from .errors import ConfigError, ModelError
from .interruption import interruptible, what_remains
from .trainer import saved_settings
from .training import state_path, train
from .training_settings import CHOICES, HELP, RUNNING, Progress, TrainingSettings
from .zoo import recipes


@dataclass(frozen=True)
class Plan:
    """What a command line asks for, complete: arguments of `training.train`."""

    config: ModelConfig | Path | None
    data: str | Path
    settings: TrainingSettings
    tokenizer: str | Path | None = None


def plan(
    recipe: str | None,
    config: str | Path | None,
    data: str | Path | None,
    given: dict[str, Any],
    init: str | Path | None = None,
    state: Path | None = None,
    tokenizer: str | Path | None = None,
) -> Plan:
    """Complete the options of a command line, from a zoo recipe, from a saved state or from the defaults.

    Args:
        recipe: name of a zoo recipe, whose model, data and settings stand wherever no option says otherwise.
        config: JSON file with the model's configuration.
        data: the training data.
        given: settings by name; None means not given.
        init: checkpoint to start from, which has a configuration of its own.
        state: the saved state that is to be resumed, whose settings stand wherever no option says otherwise.
        tokenizer: the file of the tokenizer of the data; with a recipe's own data its own by default.

    Raises:
        ConfigError: no such recipe, neither a recipe nor both config and data, or a setting out of range.
        CheckpointError: there is no such state.
        DataError: the recipe's data cannot be fetched.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if state is not None:
        chosen = saved_settings(state) | chosen
    if recipe is not None:
        known = recipes.get(recipe)
        return Plan(
            Path(config) if config else None if init else known.config,
            data or recipes.data_path(known),
            dataclasses.replace(known.settings, **chosen),
            tokenizer or (known.tokenizer if data is None else None),
        )
    if (config is None and init is None) or data is None:
        raise ConfigError(
            "give a model configuration and training data (--config and --data), a checkpoint to start from and "
            "training data (--init and --data), or a --recipe"
        )
    return Plan(Path(config) if config else None, data, TrainingSettings(**chosen), tokenizer)


def use_threads(count: int | None) -> None:
    """Let PyTorch use so many threads; None leaves it to PyTorch."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 good, 2 usage, 4 bad input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    given = {name: getattr(options, name) for name in HELP}
    state = state_path(options.output)
    try:
        with interruptible() as stop:
            use_threads(options.threads)
            resumed = state if options.resume else None
            chosen = plan(options.recipe, options.config, options.data, given, options.init, resumed, options.tokenizer)
            result = train(
                chosen.config,
                chosen.data,
                options.output,
                chosen.settings,
                resume=options.resume,
                init=options.init,
                tokenizer=chosen.tokenizer,
                save_seconds=options.save_seconds,
                device=options.device,
                metrics=options.metrics,
                tensorboard=options.tensorboard,
                progress=_print_progress,
                stop=stop,
                warn=_say,
            )
    except ModelError as error:
        _say(f"error: {error}")
        return 4
    except KeyboardInterrupt:
        _say(f"interrupted; {what_remains(state)}")
        return 130
    print(json.dumps(result.to_dict(), indent=2))
    return 0


def _say(text: str) -> None:
    """Print on stderr, whose terminal may be gone."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hsm_models.train", description="Train a model into a checkpoint.")
    parser.add_argument("--recipe", metavar="NAME", help="zoo recipe, instead of --config and --data")
    parser.add_argument("--config", type=Path, metavar="FILE", help="model configuration (JSON)")
    parser.add_argument("--data", metavar="FILE", help="text file, .npy of ids, .npz of labelled sequences, or digits")
    parser.add_argument("--init", metavar="CHECKPOINT", help="start from its weights: fine-tuning")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PATH", help="checkpoint to write")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    for option, text in RUNNING.items():
        kind = {"threads": int, "save_seconds": float}.get(option, str)
        default = "cpu" if option == "device" else None
        parser.add_argument(f"--{option.replace('_', '-')}", type=kind, default=default, help=text)
    for field in dataclasses.fields(TrainingSettings):
        option = "--" + field.name.replace("_", "-")
        choices = CHOICES.get(field.name)
        text = f"{HELP[field.name]} (default: {field.default})"
        parser.add_argument(
            option, type=type(field.default), choices=choices, help=f"{HELP[field.name]} (default: {field.default})"
        )
    return parser


def _print_progress(news: Progress) -> None:
    """Print a line every 50 steps and whenever the held-out data were looked at."""
    if news.step % 50 and news.step != news.steps and news.held_out is None:
        return
    held_out = "" if news.held_out is None else f"  held out {news.held_out:.4f}"
    _say(f"step {news.step}/{news.steps}  loss {news.loss:.4f}{held_out}")


if __name__ == "__main__":
    sys.exit(main())
