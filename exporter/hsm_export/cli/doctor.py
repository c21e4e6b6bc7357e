"""`hsm-export doctor`: what works on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .console import emit, json_option

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ..diagnosis import DoctorResult

_STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Show what is installed, which runtimes work, and what to install for the others.

    The exit code is 0 when export and validation work, else 3.

    \b
    Examples:
      hsm-export doctor
      hsm-export doctor --json
    """
    from ..diagnosis import doctor

    result = doctor()
    emit(result, as_json, _render)
    return 0 if result.ready else 3


def _render(result: DoctorResult) -> Group:
    from rich.console import Group
    from rich.text import Text

    verdict = (
        Text("Export and validation work here.", "bold green")
        if result.ready
        else Text("Export and validation do not work here yet; see the errors below.", "bold red")
    )
    head = Text(f"hsm-export {result.hsm_export}, Python {result.python}")
    return Group(head, _packages(result), _runtimes(result), _system(result), *_findings(result), verdict)


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    table.columns[0].no_wrap = True
    return table


def _packages(result: DoctorResult) -> Table:
    from rich.markup import escape

    table = _table("packages", "package", "version", "for", "state")
    for package in result.packages:
        state = escape(package.problem or "ok")
        table.add_row(package.name, package.version or "-", package.purpose, state, style=_style(package.problem))
    return table


def _runtimes(result: DoctorResult) -> Table:
    from rich.markup import escape

    table = _table("runtimes", "runtime", "what", "state")
    for runtime in result.runtimes:
        state = escape(runtime.problem or "ok")
        table.add_row(runtime.name, runtime.description, state, style=_style(runtime.problem))
    return table


def _system(result: DoctorResult) -> Table:
    table = _table("system", "what", "found")
    table.add_row("NVIDIA driver", result.driver)
    table.add_row("GPUs", ", ".join(result.gpus) or "-")
    for tool in (*result.libraries, *result.tools):
        table.add_row(tool.name, tool.found or "-")
    return table


def _style(problem: str | None) -> str:
    return "dim" if problem else ""


def _findings(result: DoctorResult) -> list[Text]:
    from rich.text import Text

    lines: list[Text] = []
    for finding in result.findings:
        fix = f" -> {finding.fix}" if finding.fix else ""
        lines.append(Text.assemble((finding.severity, _STYLES[finding.severity]), f": {finding.message}{fix}"))
    return lines
