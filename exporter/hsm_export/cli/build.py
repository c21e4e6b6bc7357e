"""`hsm-export build`: compile an ONNX file into an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import emit, json_option, phases, stderr

if TYPE_CHECKING:
    from rich.table import Table

    from ..building import BuildResult

# The same list as hsm_export.building.targets.TARGETS, which is not imported to keep `--help` quick.
_TARGETS = ("tensorrt-rtx", "tensorrt")
_SHOWN_WARNINGS = 3


@click.command("build")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The engine [default: MODEL with suffix .engine]."
)
@click.option("--target", type=click.Choice(_TARGETS), default="tensorrt-rtx", show_default=True, help="The builder.")
@click.option("--arch", metavar="LIST", help="GPU architectures, such as sm86,sm89 [default: sm80,sm86,sm89,sm120].")
@click.option("--batch", metavar="MIN:OPT:MAX", help="Batch sizes, or one number [default: 1:1:8].")
@click.option("--length", metavar="MIN:OPT:MAX", help="Sequence lengths, or one number [default: up to 4096].")
@click.option("--profile", "profiles", metavar="SIZES", multiple=True, help="One profile; may be given several times.")
@click.option("--strip-weights", is_flag=True, help="Leave the weights out; refit before use. Needs a GPU.")
@click.option("--weight-streaming", is_flag=True, help="Let weights stream from the host's memory.")
@click.option("--refit", is_flag=True, help="Let the weights be replaced later. Needs a GPU.")
@click.option("-v", "--verbose", is_flag=True, help="Show every message of the builder.")
@json_option
def command(
    model: Path,
    output: Path | None,
    target: str,
    arch: str | None,
    batch: str | None,
    length: str | None,
    profiles: tuple[str, ...],
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile MODEL (an ONNX file) into an engine and its side file ENGINE.json.

    TensorRT-RTX needs no GPU to build. Sizes that a --profile does not name come from --batch and --length.

    \b
    Examples:
      hsm-export build model.onnx --arch sm86,sm89,sm120 -o model.engine
      hsm-export build model.onnx --batch 1:4:32 --length 1:512:4096
      hsm-export build model.onnx --profile batch=1,length=1 --profile batch=1,length=1:512:4096
    """
    from ..building import build

    console = stderr()

    def log(severity: str, message: str) -> None:
        if verbose:
            console.print(f"{severity}: {message}", markup=False, soft_wrap=True)

    with phases("build") as progress:
        result = build(
            model,
            output,
            target=target,
            architectures=arch,
            profiles=_profiles(batch, length, profiles),
            progress=progress,
            log=log,
            **options,
        )
    if not verbose:
        _summarise_warnings(result)
    emit(result, as_json, _table)


def _profiles(batch: str | None, length: str | None, profiles: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """Complete each --profile with --batch and --length; without any --profile those two are the only one."""
    from ..building.profiles import parse_profile

    common = {name: size for name, size in (("batch", batch), ("length", length)) if size is not None}
    return [{**common, **parse_profile(text)} for text in profiles] or [common]


def _summarise_warnings(result: BuildResult) -> None:
    """Tell on stderr how many warnings there were, and the first distinct ones."""
    if not result.warnings:
        return
    console = stderr()
    total = sum(warning.count for warning in result.warnings)
    console.print(f"{total} builder warnings, {len(result.warnings)} distinct (-v shows all):")
    for warning in result.warnings[:_SHOWN_WARNINGS]:
        console.print(f"  {warning.count}x {warning.message}", markup=False, soft_wrap=True)


def _table(result: BuildResult) -> Table:
    from rich.table import Table

    table = Table(title=str(result.engine), show_header=False, title_justify="left")
    rows = {
        "target": f"{result.target} {result.target_version}",
        "architectures": ", ".join(result.architectures) or "this machine's GPU",
        "precision": result.precision,
        "inputs": _tensors(result.inputs),
        "outputs": _tensors(result.outputs),
        **{
            f"profile {index}": ", ".join(f"{name} {sizes}" for name, sizes in profile.items())
            for index, profile in enumerate(result.profiles)
        },
        "size": f"{result.engine_bytes / 1e6:.2f} MB",
        "build time": f"{result.build_seconds:.1f} s",
        "side file": str(result.side_file),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _tensors(tensors: tuple[Any, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} ({', '.join(map(str, tensor.shape))})" for tensor in tensors)
