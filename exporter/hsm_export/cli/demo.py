"""`hsm-export demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..dtypes import EXPORTED_PRECISIONS
from .console import emit, json_option, phases

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..demonstration import DemoResult


@click.command("demo")
@click.option(
    "-o",
    "--output",
    default="demo-output",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory for the files.",
)
@click.option("--model", "models", multiple=True, help="Zoo model; may be repeated. Default: one of each mixer family.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(EXPORTED_PRECISIONS))
@click.option("--arch", default="sm86", show_default=True, help="GPU architectures of the engines, comma-separated.")
@click.option(
    "--engines/--no-engines", default=True, show_default=True, help="Build TensorRT-RTX engines (no GPU needed)."
)
@json_option
def command(output: Path, models: tuple[str, ...], precision: str, arch: str, engines: bool, as_json: bool) -> int:
    """Take real trained models from checkpoint to ONNX to an engine, and show that the numbers stayed PyTorch's.

    \b
    Examples:
      hsm-export demo
      hsm-export demo --model hsm-hybrid-lm --precision fp16 --arch sm89,sm120
    """
    from ..demonstration import DEFAULT_MODELS, demo

    with phases("demo") as progress:
        result = demo(
            output,
            models=models or DEFAULT_MODELS,
            precision=precision,
            architectures=[name.strip() for name in arch.split(",")],
            engines=engines,
            progress=progress,
        )
    emit(result, as_json, _render)
    return 0 if result.passed else 5


def _render(result: DemoResult) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    table = Table(title=f"From checkpoint to engine ({result.precision})")
    for heading in ("model", "hsm nodes", "weights", "ONNX", "error", "PyTorch's own", "numbers", "engine", "time"):
        table.add_column(heading, justify="left" if heading in ("model", "hsm nodes", "numbers") else "right")
    for row in result.rows:
        table.add_row(
            row.model,
            "\n".join(f"{count} x {name}" for name, count in row.operators.items()),
            f"{row.parameters:,}",
            f"{row.onnx_bytes / 1e6:.1f} MB",
            f"{row.error:.1e}",
            f"{row.torch_error:.1e}",
            ("same" if row.passed else "DIFFERENT") + f"\n{row.cases} cases",
            f"{row.engine_bytes / 1e6:.1f} MB" if row.engine else "none",
            f"{row.seconds:.0f} s",
        )
    notes = [f"{row.model}: no engine: {row.note}" for row in result.rows if row.note]
    runtimes = ", ".join(dict.fromkeys(name for row in result.rows for name in row.runtimes))
    return Group(
        table,
        "error: largest absolute error of the logits against PyTorch in float64, over every runtime and input case",
        f"runtimes compared: {runtimes}",
        f"engines: TensorRT-RTX for {', '.join(result.architectures)}, built but not run (that needs a GPU)",
        f"files: {result.directory}/",
        *notes,
    )
