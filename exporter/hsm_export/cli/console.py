"""What every command shares on the terminal: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


class Reportable(Protocol):
    """A command's result: one of ours (`formats.result.Result`), or one of hsm_models', which knows no CLI."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        ...


ResultT = TypeVar("ResultT", bound=Reportable)
Progress = Callable[[str], None]

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def stderr() -> Console:
    """Return a console that writes to stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def emit(result: ResultT, as_json: bool, render: Callable[[ResultT], RenderableType]) -> None:
    """Print a result on stdout: as JSON, or as what `render` makes of it."""
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    Console(highlight=False, width=width).print(render(result))


def facts(title: str | None, rows: Mapping[str, str]) -> Table:
    """Return a table of labels and texts; rows without a text are left out."""
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left") if title else Table.grid(padding=(0, 2))
    for label, text in rows.items():
        if text:
            table.add_row(label, text)
    return table


@contextlib.contextmanager
def phases(title: str) -> Iterator[Progress]:
    """Show a spinner with the current phase and the elapsed time on stderr while the block runs.

    Off a terminal each phase is printed once, as a line. The block receives the function that sets the phase.
    """
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = stderr()
    if not console.is_terminal:
        yield lambda phase: console.print(f"{title}: {phase}", soft_wrap=True)
        return
    columns: tuple[Any, ...] = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda phase: bar.update(task, description=f"{title}: {phase}")
