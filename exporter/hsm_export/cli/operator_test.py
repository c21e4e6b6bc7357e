"""`hsm-export operator test`: somebody's operators in the matrix that ours are held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .console import emit, json_option, phases

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..operators.testing import OperatorTestResult


def _words(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str]:
    return [word.strip() for word in (value or "").split(",") if word.strip()]


@click.command("test")
@click.argument("source", metavar="FOLDER")
@click.option(
    "--only",
    metavar="LIST",
    callback=_words,
    help="What to test: torch, onnx-reference, ort, naive, fast, cuda (under the host shim), engine [default: all].",
)
@click.option("--dtypes", metavar="LIST", callback=_words, help="Types: fp32, fp16, bf16 [default: all].")
@json_option
def command(source: str, only: list[str], dtypes: list[str], as_json: bool) -> int:
    """Hold every implementation of the operators in FOLDER to their definition in float64.

    FOLDER is what `operator build` takes. oracle.py defines the operators, cases.py says sizes and ranges of numbers;
    both are optional. The kernels are built into FOLDER/lib first; CUDA's are run on the CPU too, under a shim that
    sees missing barriers and memory that nobody wrote.

    Judged are unequal lengths with NaN in the padding, one token, primes, sizes of zero, sequences in chunks and in
    single tokens, forks, roll-backs, states in place and numbers of threads, in memory that holds NaN before. The error
    that is allowed is derived from PyTorch's own in the same type. Exit code 5: something differs; 7: nothing was
    judged.

    \b
    Examples:
      hsm-export operator test operators/decay_mix
      hsm-export operator test my_mixer.py --only torch,ort --dtypes fp32
    """
    from ..operators.testing import judge_operators

    with phases("operator test") as progress:
        result = judge_operators(source, only=only, dtypes=dtypes, progress=progress)
    emit(result, as_json, _table)
    return 5 if result.matrix.failures else 0 if result.passed else 7


def _table(result: OperatorTestResult) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ..operators.testing import lines

    styles = {"passed": "green", "failed": "bold red", "skipped": "dim"}
    table = Table("operator", "implementation", "type", "verdict", "worst", title_justify="left")
    for *names, verdict, word in lines(result.matrix):
        table.add_row(*names, Text(verdict, styles[verdict]), word)
    failures = [Text(line, "red") for line in result.matrix.failures]
    judged = sum(cell.verdict != "skipped" for cell in result.matrix.cells)
    summary = "passed" if result.passed else "FAILED"
    return Group(table, *failures, f"{summary}: {judged} of {len(result.matrix.cells)} judged")
