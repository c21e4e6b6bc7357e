"""`hsm-export train`: train a model into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsm_models.training_settings import HELP, TrainingSettings

from .console import emit, facts, json_option, stderr

if TYPE_CHECKING:
    from rich.table import Table

    from hsm_models.training import TrainingResult
    from hsm_models.training_settings import Progress


def _setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each training setting; an option that is not given is None."""
    defaults = TrainingSettings()
    for name, text in reversed(HELP.items()):
        default = getattr(defaults, name)
        kind = click.Choice(["byte", "char"]) if name == "level" else type(default)
        option = "--" + name.replace("_", "-")
        function = click.option(option, name, type=kind, help=f"{text} [default: {default}]")(function)
    return function


@click.command("train")
@click.option("--recipe", metavar="NAME", help="Zoo recipe; --config, --data and settings override its own.")
@click.option("--config", type=click.Path(path_type=Path), help="Model configuration (JSON).")
@click.option("--data", help="Text file, .npz with labelled sequences, or `digits`.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, to the same bits.")
@_setting_options
@json_option
def command(
    recipe: str | None,
    config: Path | None,
    data: str | None,
    output: Path,
    resume: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model into a checkpoint: language models on text, classifiers on labelled sequences.

    The last part of the data is held out and measured at the end. Ctrl-C saves the state beside the output and exits
    with 130; the same command with --resume continues.

    \b
    Examples:
      hsm-export train --recipe hsm-lm -o hsm-lm.safetensors
      hsm-export train --config model.json --data book.txt -o model.safetensors --steps 2000 --length 256
      hsm-export train --config digits.json --data digits -o digits.safetensors --json
    """
    from hsm_models.train import interruptible, plan
    from hsm_models.training import state_path, train

    chosen = plan(recipe, config, data, given)
    try:
        with interruptible() as stop, _bar() as progress:
            result = train(
                chosen.config, chosen.data, output, chosen.settings, resume=resume, progress=progress, stop=stop
            )
    except KeyboardInterrupt:
        stderr().print(f"the state is saved in {state_path(output)}; --resume continues from it", soft_wrap=True)
        raise
    emit(result, as_json, _render)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """Show a bar with the loss on stderr; off a terminal, a line now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=None)
        held_out = ""

        def show(news: Progress) -> None:
            nonlocal held_out
            if news.held_out is not None:
                held_out = f"  held out {news.held_out:.4f}"
            text = f"loss {news.loss:.4f}{held_out}"
            bar.update(task, total=news.steps, completed=news.step, description=text)
            if not console.is_terminal and (news.step % 50 == 0 or news.step == news.steps):
                console.print(f"step {news.step}/{news.steps}  {text}", soft_wrap=True)

        yield show


def _render(result: TrainingResult) -> Table:
    rows = {
        "checkpoint": str(result.checkpoint),
        "parameters": f"{result.parameters:,}",
        "steps": f"{result.steps:,} in {result.seconds:.0f} s",
        f"held out, {result.metric.replace('_', ' ')}": f"{result.held_out:.4f}",
    }
    return facts(None, rows)
