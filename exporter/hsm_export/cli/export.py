"""`hsm-export export`: write a checkpoint as one checked ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..dtypes import WRITTEN_PRECISIONS
from .console import emit, facts, json_option, phases
from .validate import shape_pairs

if TYPE_CHECKING:
    from rich.table import Table

    from ..exporting import ExportResult


def _sizes(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | dict[str, int] | None:
    """Parse BATCHxLENGTH or NAME=SIZE,... ."""
    found = shape_pairs(ctx, parameter, (value,)) if value is not None else None
    return found[0] if found else None


@click.command("export")
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The ONNX file to write.")
@click.option(
    "--precision",
    type=click.Choice(WRITTEN_PRECISIONS),
    help="Type of weights and activations; norms, softmax and routing stay in float32 [default: that of the weights].",
)
@click.option(
    "--precision-plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the nodes in float32 that FILE lists, and no others [default: by operator type].",
)
@click.option(
    "--external-data/--no-external-data",
    default=None,
    help="Put the weights into OUTPUT.data [default: above 256 MB].",
)
@click.option("--decode", is_flag=True, help="Export the decoding step of a language model, with its state.")
@click.option("--capacity", type=click.IntRange(1), metavar="N", help="Tokens that growing states hold.")
@click.option("--rollback", type=click.IntRange(0), default=0, metavar="R", help="Tokens that can be taken back.")
@click.option("--last-logits", is_flag=True, help="Return the logits of each row's last token only.")
@click.option("--lengths", is_flag=True, help="Let a classifier take the number of valid tokens of each row.")
@click.option(
    "--portable", is_flag=True, help="ONNX's own operators alone, for runtimes that know no functions; no kernels then."
)
@click.option(
    "--static",
    callback=_sizes,
    metavar="BATCHxLENGTH",
    help="A portable file of fixed sizes, for compilers without dynamic shapes; or by name: batch=1,height=5.",
)
@click.option("--cpu-file", is_flag=True, help="With bf16: write OUTPUT.cpu.onnx too, an equal file that CPUs run.")
@json_option
def command(
    checkpoint: str,
    output: Path,
    precision: str | None,
    precision_plan: Path | None,
    external_data: bool | None,
    decode: bool,
    capacity: int | None,
    rollback: int,
    last_logits: bool,
    lengths: bool,
    portable: bool,
    static: tuple[int, int] | dict[str, int] | None,
    cpu_file: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT (a folder, a .safetensors file or zoo:NAME) to ONNX, or a language model of your own.

    For the latter name FILE.py:FACTORY, a function without arguments that returns it; docs/decoding.md says what it
    keeps to.

    The file is checked, and its numbers are compared with PyTorch's, before it replaces OUTPUT. The measured errors
    are written to OUTPUT.json. The checkpoint's tokenizer is copied beside it.

    With --decode, one graph serves prompts, chunks and single tokens: it takes `tokens`, `position`, `lengths` and
    the state (`past.*`), and returns `logits` and the new state (`present.*`). --capacity, --rollback and
    --last-logits belong to it.

    With --precision-plan, the file that `hsm-export diff --precision-plan` found says which nodes stay in float32.

    \b
    Examples:
      hsm-export export zoo:hsm-lm -o hsm-lm.onnx
      hsm-export export my-checkpoint/ -o model.onnx --precision fp16
      hsm-export export model.safetensors -o model.onnx --external-data --json
      hsm-export export zoo:hsm-lm --decode -o hsm-lm-decode.onnx
      hsm-export export zoo:switch-head-lm --decode --capacity 2048 --last-logits -o decode.onnx
      hsm-export export my_model.py:make --decode -o decode.onnx
      hsm-export export zoo:hsm-lm --portable -o anywhere.onnx
      hsm-export export zoo:hsm-lm --static 1x64 -o fixed.onnx
    """
    from ..exporting import export

    with phases("export") as progress:
        result = export(
            checkpoint,
            output=output,
            precision=precision,
            precision_plan=precision_plan,
            external_data=external_data,
            decode=decode,
            capacity=capacity,
            rollback=rollback,
            last_logits=last_logits,
            lengths=lengths,
            portable=portable,
            static=static,
            cpu_file=cpu_file,
            progress=progress,
        )
    emit(result, as_json, _table)


def _table(result: ExportResult) -> Table:
    every = (result.path, result.external_data, result.cpu_file, result.report, result.tokenizer)
    files = [path for path in every if path]
    worst = max(result.checks, key=lambda check: check.max_abs_error / check.allowed if check.allowed else 0.0)
    rows = {
        "files": "\n".join(map(str, files)),
        "size": f"{result.bytes / 1e6:.2f} MB, {result.parameters:,} parameters in {result.precision}",
        "plan": "" if result.wide_nodes is None else f"{len(result.wide_nodes)} nodes in float32",
        "inputs": "\n".join(f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in result.inputs),
        "fixed": "\n".join(result.fixed),
        "outputs": ", ".join(result.outputs),
        "mixers": _mixers(result),
        "state": _state(result),
        "checked": f"{len(result.checks)} runs in ONNX Runtime{_copy(result)} against PyTorch float64",
        "largest error": f"{worst.max_abs_error:.2e} (allowed: {worst.allowed:.2e})",
    }
    return facts(None, rows)


def _copy(result: ExportResult) -> str:
    """Say when what ran was not the file itself: ONNX Runtime has no products in bfloat16 on CPUs."""
    return " (of a copy that computes in float32: bfloat16 files run on GPUs)" if result.precision == "bf16" else ""


def _mixers(result: ExportResult) -> str:
    """Count the operators of domain `hsm`."""
    from collections import Counter

    counts = Counter(result.mixers.values())
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none"


def _state(result: ExportResult) -> str:
    """Say what the state of one sequence takes; empty for a graph without one."""
    if result.state is None:
        return ""
    fixed = result.state.bytes_per_sequence(0)
    growing = result.state.bytes_per_sequence(1) - fixed
    count = len(result.state.tensors)
    return f"{count} tensor{'s' if count > 1 else ''}, {fixed:,} bytes a sequence" + (
        f" and {growing:,} a token" if growing else ", whatever its length"
    )
