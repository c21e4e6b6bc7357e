"""`hsm-export train`: train a model into a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsm_models.training_settings import CHOICES, HELP, RUNNING, TrainingSettings

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
        kind = click.Choice(CHOICES[name]) if name in CHOICES else type(default)
        option = "--" + name.replace("_", "-")
        function = click.option(option, name, type=kind, help=f"{text} [default: {default}]")(function)
    return function


@click.command("train")
@click.option("--recipe", metavar="NAME", help="Zoo recipe; --config, --data and settings override its own.")
@click.option("--config", type=click.Path(path_type=Path), help="Model configuration (JSON).")
@click.option("--init", metavar="CHECKPOINT", help="Start from its weights, as of an import: fine-tuning.")
@click.option("--data", help="Text file, .npy with ids, .npz with labelled sequences, or `digits`.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help=RUNNING["tokenizer"])
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, to the same bits.")
@click.option("--device", default="cpu", help=RUNNING["device"] + " [default: cpu]")
@click.option("--threads", type=click.IntRange(min=1), help=RUNNING["threads"])
@click.option("--save-seconds", type=click.FloatRange(min=0), help=RUNNING["save_seconds"])
@click.option("--metrics", type=click.Path(path_type=Path), help=RUNNING["metrics"])
@click.option("--tensorboard", type=click.Path(path_type=Path), help=RUNNING["tensorboard"])
@_setting_options
@json_option
def command(
    recipe: str | None,
    config: Path | None,
    init: str | None,
    data: str | None,
    tokenizer: Path | None,
    output: Path,
    resume: bool,
    device: str,
    threads: int | None,
    save_seconds: float | None,
    metrics: Path | None,
    tensorboard: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a model into a checkpoint: language models on text, classifiers on labelled sequences.

    The last part of the data is held out and measured at the end. A state is saved beside the output every 60
    seconds, and on Ctrl-C, SIGTERM and SIGHUP after the step that runs; the command then exits with 130 and says what
    is saved. The same command with --resume continues to the same bits; --steps, --lr, --final-fraction, --warmup,
    --clip, --dropout, --entropy and --evaluate-every may change from there on. Other data, threads, another device or
    version of PyTorch change the bits: it goes on, and says so. A state that cannot be saved is a warning. A new run
    refuses to start over another run's state.

    --init goes on with the symbols that the checkpoint was trained on: bytes, its own characters, or the ids of its
    tokenizer, an .npy file.

    This trainer is for models of one machine: it knows no distributed training. For more, train the modules of
    hsm_models with Lightning, Accelerate or a plain loop (examples/training/plain_loop.py) and write the result with
    hsm_models.save_checkpoint.

    \b
    Examples:
      hsm-export train --recipe hsm-lm -o hsm-lm.safetensors
      hsm-export train --config model.json --data book.txt -o model.safetensors --steps 2000 --length 256
      hsm-export train --init imported.safetensors --data ids.npy -o tuned.safetensors --lr 3e-4 --metrics log.jsonl
      hsm-export train --config digits.json --data digits -o digits.safetensors --json
    """
    from hsm_models.interruption import interruptible, what_remains
    from hsm_models.train import plan, use_threads
    from hsm_models.training import state_path, train

    state = state_path(output)
    try:
        with interruptible() as stop, _bar() as progress:
            use_threads(threads)
            chosen = plan(recipe, config, data, given, init, state if resume else None, tokenizer)
            result = train(
                chosen.config,
                chosen.data,
                output,
                chosen.settings,
                resume=resume,
                init=init,
                tokenizer=chosen.tokenizer,
                save_seconds=save_seconds,
                device=device,
                metrics=metrics,
                tensorboard=tensorboard,
                progress=progress,
                stop=stop,
                warn=_say,
            )
    except KeyboardInterrupt:
        _say(f"interrupted; {what_remains(state)}")
        raise
    emit(result, as_json, _render)


def _say(text: str) -> None:
    """Print on stderr, whose terminal may be gone."""
    with contextlib.suppress(OSError):
        stderr().print(text, soft_wrap=True, markup=False)


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
                _say(f"step {news.step}/{news.steps}  {text}")

        yield show


def _render(result: TrainingResult) -> Table:
    rows = {
        "checkpoint": str(result.checkpoint),
        "parameters": f"{result.parameters:,}",
        "steps": f"{result.steps:,} in {result.seconds:.0f} s",
        f"held out, {result.metric.replace('_', ' ')}": f"{result.held_out:.4f}",
    }
    if result.tokenizer is not None:
        rows["tokenizer"] = str(result.tokenizer)
    return facts(None, rows)
