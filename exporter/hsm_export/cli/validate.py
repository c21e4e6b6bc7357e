"""`hsm-export validate`: prove that every runtime keeps the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Progress, emit, json_option, phases

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ..limits import Limits
    from ..validation import Comparison, Flips, RuntimeReport, ValidationResult

_COLOURS = {"passed": "green", "failed": "bold red", "baseline": "blue", "not judged": "yellow", "skipped": "yellow"}


def runtime_names(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated list."""
    if value is None:
        return None
    return tuple(name.strip() for name in value.split(",") if name.strip())


def shape_pairs(
    _ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, int] | dict[str, int], ...] | None:
    """Parse BATCHxLENGTH and NAME=SIZE,... options."""
    shapes: list[tuple[int, int] | dict[str, int]] = []
    for value in values:
        batch, cross, length = value.lower().partition("x")
        named = [part.strip().rpartition("=") for part in value.split(",")]
        if cross and batch.isdecimal() and length.isdecimal():
            shapes.append((int(batch), int(length)))
        elif all(name and size.isdecimal() for name, _, size in named):
            shapes.append({name: int(size) for name, _, size in named})
        else:
            raise click.BadParameter(f"{value!r} is not BATCHxLENGTH, for example 2x300, nor height=5,width=7")
    return tuple(shapes) or None


def state_pairs(
    _ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Parse IN=OUT options."""
    pairs = []
    for value in values:
        past, equals, present = value.partition("=")
        if not (past and equals and present):
            raise click.BadParameter(f"{value!r} is not INPUT=OUTPUT, for example past_key.0=present_key.0")
        pairs.append((past, present))
    return tuple(pairs)


SHAPE_HELP = "Shape to try, or sizes by name: height=5,width=7; repeatable."


@click.command("validate")
@click.argument("model", type=click.Path())
@click.option("--against", metavar="CHECKPOINT", help="Checkpoint, zoo:NAME or FILE.py:FACTORY that was exported.")
@click.option(
    "--runtimes",
    callback=runtime_names,
    metavar="A,B",
    help="Runtimes to judge, as in ort:level=0,mine.py:Mine [default: all that work here].",
)
@click.option("--inputs", type=click.Path(), metavar="DATA.npz", help="Your own inputs instead of the built-in cases.")
@click.option(
    "--check",
    type=click.Path(),
    metavar="RUN.npz",
    help="Inputs and outputs of the author's own run, which must agree (docs/importing.md).",
)
@click.option("--shape", "shapes", multiple=True, callback=shape_pairs, metavar="BATCHxLENGTH", help=SHAPE_HELP)
@click.option("--steps", type=click.IntRange(1), help="Decoding files: single steps of the long case [default: 64].")
@click.option(
    "--state", "states", multiple=True, callback=state_pairs, metavar="IN=OUT", help="A state of the file; repeatable."
)
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so many seconds.")
@click.option(
    "--max-memory", type=click.FloatRange(min=0, min_open=True), metavar="MB", help="Stop beyond so much memory."
)
@json_option
def command(
    model: str,
    against: str | None,
    runtimes: tuple[str, ...] | None,
    inputs: str | None,
    check: str | None,
    shapes: tuple[tuple[int, int] | dict[str, int], ...] | None,
    steps: int | None,
    states: tuple[tuple[str, str], ...],
    max_seconds: float | None,
    max_memory: float | None,
    as_json: bool,
) -> None:
    """Run MODEL in several runtimes and hold each to tolerances derived from float64 and native precision.

    A decoding file reads sequences in pieces, with its state, against one pass over everything; so does a language
    model of others whose state shows in its names (past_key_values.0.key and present.0.key), or is named by --state.
    Exit code 5 when numbers differ; the last line then names the runtime, output, input shape and worst element.
    Exit code 7 when nothing differs but something could not be judged, such as a file that draws random numbers;
    8 when --max-seconds or --max-memory ended it early.

    \b
    Examples:
      hsm-export validate hsm-lm.onnx --against zoo:hsm-lm
      hsm-export validate model.onnx --runtimes ort,onnx-reference
      hsm-export validate model.onnx --against model.safetensors --inputs data.npz --json
      hsm-export validate model.onnx --against zoo:switch-head-lm --shape 1x512 --shape 8x33
      hsm-export validate decode.onnx --against zoo:hsm-lm --steps 4096
      hsm-export validate model.onnx --against model.safetensors --check run.npz
    """
    from ..errors import LimitError, NotJudgedError, NumbersDifferError

    arguments = {"model": model, "against": against, "runtimes": runtimes, "inputs": inputs, "shapes": shapes}
    limits = limits_of(max_seconds, max_memory)
    with phases("validate") as progress:
        result = _validated({**arguments, "check": check, "steps": steps, "states": states}, limits, progress)
    emit(result, as_json, render)
    if result.verdict == "ended early":
        raise LimitError(result.summary, "repeat it with a higher limit")
    if result.verdict == "not judged":
        raise NotJudgedError(result.summary, "docs/validation.md says what judges")
    if not result.passed:
        raise NumbersDifferError(result.summary, "docs/validation.md says how tolerances are derived")


MEGABYTE = 1_000_000


def limits_of(seconds: float | None, megabytes: float | None) -> Limits | None:
    """Return the caps that options ask for, whose time begins now; None without any."""
    from ..limits import Limits

    if seconds is None and megabytes is None:
        return None
    return Limits(seconds, None if megabytes is None else int(megabytes * MEGABYTE))


def _validated(arguments: dict[str, Any], limits: Limits | None, progress: Progress) -> ValidationResult:
    """Validate; with a cap on time or memory in a process of its own, which can be ended anywhere."""
    from ..validation import ValidationResult, validate

    if limits is None:
        return validate(**arguments, progress=progress)
    from ..limited_process import run_limited

    result, early = run_limited("hsm_export.validation.opening:validate", arguments, limits, progress)
    assert isinstance(result, ValidationResult)
    return replace(result, early=early, passed=False) if early else result


def render(result: ValidationResult) -> RenderableType:
    """Return a validation as a table with the runtimes' worst cases, warnings and notes."""
    from rich.console import Group
    from rich.text import Text

    from ..diffing.reporting.terminal import predictions

    lines: list[Any] = [_table(result)]
    lines += [Text(f"warning: {warning}", style="bold yellow") for warning in result.warnings]
    lines += [Text(f"{report.runtime}: {report.reason}", style="red") for report in result.runtimes if _failed(report)]
    lines += [Text(f"{report.runtime}: {report.departs}", style="red") for report in result.runtimes if report.departs]
    meant = [(report.runtime, report.language, report.classifier) for report in result.runtimes]
    lines += [Text(line) for item in meant for line in predictions(*item)]
    lines += [Text(_decoding(report)) for report in result.runtimes if report.decoding]
    report = result.quantisation
    if report is not None and report.loss is not None:
        kept = "breaks" if report.reason else "keeps"
        loss = report.loss.words(report.budget.metric)
        lines.append(Text(f"quantising {kept} {report.budget.text}: {loss} on {report.inputs}"))
    lines += [Text(f"note: {note}", style="dim") for note in result.notes]
    lines += [Text(f"not judged: {reason}", style="red") for reason in result.unjudged]
    if result.early:
        lines.append(Text(f"ended early: {result.early}: what follows was not compared", style="red"))
    verdict = Text(result.verdict.upper(), style="bold green" if result.passed else "bold red")
    count = f" {len(result.cases)} cases, tolerance: twice the error of {result.baseline}, or what rounding explains"
    lines.append(verdict.append(count, style="default not bold"))
    return Group(*lines)


def _decoding(report: RuntimeReport) -> str:
    """Say how a runtime's error grows over the steps, and what is exact."""
    decoding = report.decoding
    assert decoding is not None
    growth = f"{decoding.first_error:.2e} in the first quarter, {decoding.last_error:.2e} in the last"
    exact = f"; exact to the bit: {', '.join(decoding.exact)}" if decoding.exact else ""
    return f"{report.runtime}: error of {decoding.steps} single steps {growth}{exact}"


def _failed(report: RuntimeReport) -> bool:
    return report.verdict == "failed" and not report.worst


def _table(result: ValidationResult) -> Table:
    """Return one row per runtime and output: its worst case."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    against = f" against {Path(result.against).name}" if result.against else ""
    title = f"{Path(result.model).name} ({result.precision}){against}, arbiter {result.arbiter}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("runtime", no_wrap=True)
    table.add_column("output", no_wrap=True, max_width=20)
    table.add_column("worst case")
    extra = _extra_columns(result)
    for heading in ("max error", "tolerance", "cosine", *extra):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for report in result.runtimes:
        verdict = f"[{_COLOURS[report.verdict]}]{report.verdict}[/]"
        if not report.worst:
            table.add_row(report.runtime, "–", escape(report.reason or "–"), *["–"] * (3 + len(extra)), verdict)
        for item in _shown(report):
            table.add_row(*_row(item, report.flips, extra), verdict if item.passed else "[bold red]failed[/]")
    return table


def _shown(report: RuntimeReport) -> list[Comparison]:
    """Return the model's outputs: of a state the worst tensor, and of expert operators the worst logits that fail."""
    from ..runtimes.routing import LOGITS_SUFFIX

    routing = [item for item in report.worst if item.output.endswith(LOGITS_SUFFIX)]
    states = [item for item in report.worst if item.output.startswith("present.")]
    outputs = [item for item in report.worst if item not in routing and item not in states]
    failed = [item for item in routing if not item.passed]
    worst = [max(items, key=lambda item: item.severity) for items in (states, failed) if items]
    return outputs + worst


def _extra_columns(result: ValidationResult) -> list[str]:
    columns = []
    if any(report.flips for report in result.runtimes):
        columns.append("flips")
    return columns


def _row(item: Comparison, flips: Flips | None, extra: list[str]) -> list[str]:
    values = {
        "flips": "–" if flips is None else f"{flips.excused + flips.consequent + flips.unexcused}/{flips.choices}",
    }
    numbers = [f"{item.errors.max_abs:.2e}", f"{item.threshold.value:.2e}", f"{item.errors.cosine:.6f}"]
    return [item.runtime, item.output, item.case, *numbers, *[values[name] for name in extra]]
