"""`hsm-export bench`: how long a file takes in each runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import emit, json_option, phases

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ..benchmarking import BenchResult, Measurement


def _names(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated list."""
    if value is None:
        return None
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _lengths(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Split a comma-separated list of whole numbers."""
    names = _names(ctx, parameter, value)
    if names is None:
        return None
    for name in names:
        if not name.isdecimal():
            raise click.BadParameter(f"{name!r} is not a whole number; write for example 128,512,2048")
    return tuple(int(name) for name in names)


@click.command("bench")
@click.argument("model", type=click.Path())
@click.option("--against", metavar="CHECKPOINT", help="Checkpoint or zoo:NAME that the file was exported from.")
@click.option("--runtimes", callback=_names, metavar="A,B", help="[default: all that work here and are not evaluators]")
@click.option("--batch", default=1, show_default=True, help="Rows of a batch.")
@click.option("--length", "lengths", callback=_lengths, metavar="N,M", help="Tokens of a row [default: 128,512,2048].")
@click.option("--threads", type=int, help="Threads of every runtime [default: all cores].")
@click.option("--repetitions", default=15, show_default=True, help="Turns of each runtime at each length.")
@click.option("--plot", metavar="OUT.png|svg", help="Draw time and memory against length.")
@json_option
def command(
    model: str,
    against: str | None,
    runtimes: tuple[str, ...] | None,
    batch: int,
    lengths: tuple[int, ...] | None,
    threads: int | None,
    repetitions: int,
    plot: str | None,
    as_json: bool,
) -> None:
    """Time MODEL in several runtimes that take turns, each in its own process, and measure their memory.

    The numbers are checked before anything is timed, as `validate` does, at the same shapes; exit code 5 when they are
    wrong. Times are medians with quartiles. Let nothing else run meanwhile.

    \b
    Examples:
      hsm-export bench hsm-lm.onnx --against zoo:hsm-lm
      hsm-export bench model.onnx --runtimes ort,ort-fused --length 128,1024,8192 --plot bench.svg
      hsm-export bench model.onnx --batch 8 --length 512 --threads 1 --json
    """
    from ..benchmarking import bench
    from ..benchmarking.plotting import check_plot
    from ..benchmarking.plotting import plot as draw

    if plot is not None:
        check_plot(plot)
    with phases("bench") as progress:
        result = bench(
            model,
            against,
            runtimes=runtimes,
            batch=batch,
            lengths=lengths,
            threads=threads,
            repetitions=repetitions,
            progress=progress,
        )
    emit(result, as_json, _render)
    if plot is not None:
        draw(result, plot)


def _render(result: BenchResult) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    lines: list[Any] = [_table(result)]
    for crossover in result.crossovers:
        lines.append(
            Text(
                f"crossover: {crossover.quicker_below} is quicker below about {crossover.length:.0f} tokens, "
                f"{crossover.quicker_above} above"
            )
        )
    lines += [Text(f"skipped {name}: {reason}", style="yellow") for name, reason in result.skipped.items()]
    lines += [Text(f"note: {note}", style="dim") for note in result.notes]
    if max(result.load) > 1.5 * result.threads:
        lines.append(Text(f"warning: the load average was {max(result.load):.1f}", style="bold yellow"))
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines.append(Text(f"{result.machine}; {versions}", style="dim"))
    return Group(*lines)


def _table(result: BenchResult) -> Table:
    """Return one row per length and runtime; ratios are to the slowest runtime of that length."""
    from rich import box
    from rich.table import Table

    from ..benchmarking.result import threads_in_words

    threads = threads_in_words(result.threads)
    title = f"{Path(result.model).name} ({result.precision}), batch {result.batch}, {threads}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    rate = "tokens/s" if result.lengths else "rows/s"
    for heading in ("length", "runtime", "median", "quartiles", "speed", rate, "peak memory", "by runs", "max error"):
        table.add_column(heading, justify="left" if heading == "runtime" else "right", no_wrap=True)
    errors = {item.runtime: item.max_abs_error for item in result.accuracy}
    for length in result.lengths or (None,):
        rows = [item for item in result.measurements if item.length == length]
        slowest = max(item.seconds.median for item in rows)
        for item in rows:
            table.add_row(*_row(item, slowest, errors.get(item.runtime)))
        table.add_section()
    table.caption = f"max error: against {result.arbiter}, within tolerance at every shape"
    return table


def _row(item: Measurement, slowest: float, error: float | None) -> list[str]:
    return [
        "fixed" if item.length is None else str(item.length),
        item.runtime,
        _seconds(item.seconds.median),
        f"{_seconds(item.seconds.q1)} … {_seconds(item.seconds.q3)}",
        f"{slowest / item.seconds.median:.1f}x",
        f"{item.per_second:,.0f}",
        f"{item.peak_bytes / 2**20:,.0f} MiB",
        f"{item.extra_bytes / 2**20:,.0f} MiB",
        "–" if error is None else f"{error:.1e}",
    ]


def _seconds(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
