"""`hsm-export operator build`: from kernels to libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import emit, json_option, phases

if TYPE_CHECKING:
    from rich.table import Table

    from ..operators.building import OperatorBuildResult

_PARTS = "onnxruntime, onnxruntime_cuda, tensorrt, torch, torch_cuda, or cuda for all of its own"


def _words(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str]:
    return [word.strip() for word in (value or "").split(",") if word.strip()]


@click.command("build")
@click.argument("sources", metavar="FOLDER...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the libraries [default: FOLDER/lib].")
@click.option("--name", help="NAME in libNAME_onnxruntime.so [default: the folders'].")
@click.option("--only", metavar="LIST", callback=_words, help=f"The parts to build: {_PARTS}.")
@click.option("--require", metavar="LIST", callback=_words, help="Fail where one of these parts cannot be built.")
@click.option("--arch", metavar="LIST", help="GPU architectures, such as sm86,sm89 [default: all].")
@json_option
def command(
    sources: tuple[str, ...],
    output: Path | None,
    name: str | None,
    only: list[str],
    require: list[str],
    arch: str | None,
    as_json: bool,
) -> None:
    """Compile the kernels of the operators in FOLDER into libraries, which all commands then find.

    FOLDER has a spec.py and kernels, naive.cc, cpu.cc, cuda.cu; or it is a .py file whose kernels are in the folder of
    its name; or it holds several of these. Made are libNAME_onnxruntime.so and libNAME_onnxruntime_cuda.so for ONNX
    Runtime, libNAME_tensorrt.so, and for PyTorch libNAME_kernels.so and libNAME_kernels_cuda.so. CUDA's are left out
    where there is no nvcc.

    Several FOLDERs make one library for all, in the folder lib beside them: ONNX Runtime takes one library of a domain
    in a session.

    Libraries that are not in FOLDER/lib are found by the environment variable HSM_EXPORT_LIBRARIES, a list of folders.

    \b
    Examples:
      hsm-export operator build operators/decay_mix
      hsm-export operator build my_mixer.py --only onnxruntime,torch
      hsm-export operator build operators/decay_mix operators/gated_sum
      hsm-export operator build operators --name acme --output dist/lib --require cuda --arch sm86,sm90
    """
    from ..operators.building import build_operators

    with phases("operator build") as progress:
        result = build_operators(
            sources, output, name=name, only=only, require=require, architectures=arch, progress=progress
        )
    emit(result, as_json, _table)


def _table(result: OperatorBuildResult) -> Table:
    from rich.table import Table

    table = Table(title=f"{result.name}, in {result.seconds:.1f} s", show_header=False, title_justify="left")
    for library in result.libraries:
        table.add_row(str(library.path), f"{library.bytes / 1e6:.2f} MB: {', '.join(library.operators)}")
    for adapter, reason in result.left_out.items():
        table.add_row(f"no lib{result.name}_{adapter}.so", reason, style="dim")
    return table
