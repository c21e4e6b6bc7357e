"""`hsm-export operator new`: the folder of an operator of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import emit, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..operators.creating import NewOperatorResult


@click.command("new")
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The folder [default: NAME in snake case, here].")
@click.option("--step", is_flag=True, help="A recurrent operator: what one token does to a state.")
@click.option("--kernels", is_flag=True, help="With kernels in C++: naive.cc and cpu.cc.")
@click.option("--cuda", is_flag=True, help="With a CUDA kernel too, also for TensorRT.")
@json_option
def command(name: str, output: Path | None, step: bool, kernels: bool, cuda: bool, as_json: bool) -> None:
    """Write the folder of a new operator, with an example of maths to replace; its tests pass.

    NAME is a domain of yours and the operator, such as acme::DecayMix. The folder holds the operator in PyTorch
    (spec.py), its definition in float64 (oracle.py), sizes for tests (cases.py), a test and a README with the formula.
    Nothing is overwritten.

    \b
    Examples:
      hsm-export operator new acme::DecayMix
      hsm-export operator new acme::GatedSum --step --kernels -o operators/gated_sum
      hsm-export operator test operators/gated_sum
    """
    from ..operators.creating import new_operator

    emit(new_operator(name, output, step=step, kernels=kernels, cuda=cuda), as_json, _lines)


def _lines(result: NewOperatorResult) -> RenderableType:
    from rich.console import Group

    kernels = [f"  hsm-export operator build {result.folder}"] if "cpu.cc" in result.files else []
    return Group(
        f"{result.name} is in {result.folder}: {', '.join(result.files)}",
        "Replace the example's maths in each of them, and try:",
        f"  hsm-export operator test {result.folder}",
        *kernels,
    )
