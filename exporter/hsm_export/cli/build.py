"""`hsm-export build`: compile an ONNX file into an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import emit, facts, json_option, phases, stderr

if TYPE_CHECKING:
    from rich.table import Table

    from ..building import BuildResult
    from ..kits import KitResult

# The same list as hsm_export.building.targets.TARGETS, which is not imported to keep `--help` quick.
_TARGETS = ("tensorrt-rtx", "tensorrt")
_SHOWN_WARNINGS = 3


@click.command("build")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The engine [default: MODEL with suffix .engine]."
)
@click.option("--target", type=click.Choice(_TARGETS), default="tensorrt-rtx", show_default=True, help="The builder.")
@click.option("--arch", metavar="LIST", help="GPU architectures, such as sm86,sm89 [default: sm80,sm86,sm89,sm120].")
@click.option("--batch", metavar="MIN:OPT:MAX", help="Batch sizes, or one number [default: 1:1:8].")
@click.option("--length", metavar="MIN:OPT:MAX", help="Sequence lengths, or one number [default: up to 4096].")
@click.option("--profile", "profiles", metavar="SIZES", multiple=True, help="One profile; may be given several times.")
@click.option(
    "--plugins/--no-plugins",
    default=None,
    help="Compile hsm nodes to our plugins or from their function bodies [default: plugins for tensorrt; bodies for "
    "tensorrt-rtx, where plugins are EXPERIMENTAL: NVIDIA does not support them there].",
)
@click.option("--embed-plugins", is_flag=True, help="Put the plugin library into the engine.")
@click.option("--strip-weights", is_flag=True, help="Leave the weights out; refit before use. Needs a GPU.")
@click.option("--weight-streaming", is_flag=True, help="Let weights stream from the host's memory.")
@click.option("--refit", is_flag=True, help="Let the weights be replaced later. Needs a GPU.")
@click.option("--version-compatible", is_flag=True, help="Let newer versions of TensorRT run the engine.")
@click.option(
    "--hardware-compatibility",
    type=click.Choice(("ampere+", "same-compute-capability")),
    help="Let other GPUs than the one that builds run the engine.",
)
@click.option(
    "--timing-cache", type=click.Path(path_type=Path), help="Keep measured kernel times in this file between builds."
)
@click.option("--kit", type=click.Path(path_type=Path), help="Build nothing: write a build kit for a GPU machine.")
@click.option("--against", metavar="CHECKPOINT", help="With --kit: the source of the reference numbers.")
@click.option(
    "--from-kit", type=click.Path(path_type=Path), help="Check and take the result folder of a kit that was run."
)
@click.option("-v", "--verbose", is_flag=True, help="Show every message of the builder.")
@json_option
def command(
    model: Path | None,
    output: Path | None,
    kit: Path | None,
    against: str | None,
    from_kit: Path | None,
    arch: str | None,
    batch: str | None,
    length: str | None,
    profiles: tuple[str, ...],
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile MODEL (an ONNX file) into an engine and its side file ENGINE.json.

    TensorRT-RTX needs no GPU to build; TensorRT builds on the GPU that it builds for. Without that GPU here, --kit
    writes a folder that needs only TensorRT and NumPy there, and --from-kit checks and takes what comes back. Sizes
    that a --profile does not name come from --batch and --length.

    \b
    Examples:
      hsm-export build model.onnx --arch sm86,sm89,sm120 -o model.engine
      hsm-export build model.onnx --batch 1:4:32 --length 1:512:4096
      hsm-export build model.onnx --profile batch=1,length=1 --profile batch=1,length=1:512:4096
      hsm-export build model.onnx --target tensorrt --timing-cache timing.cache
      hsm-export build model.onnx --target tensorrt --against zoo:hsm-lm --kit model-kit
      hsm-export build --from-kit model-kit/result -o model.engine
    """
    from ..building import build
    from ..formats.build_options import BuildOptions
    from ..kits import accept_kit, write_kit

    _check_usage(model, kit, against, from_kit)
    console = stderr()

    def log(severity: str, message: str) -> None:
        if verbose:
            console.print(f"{severity}: {message}", markup=False, soft_wrap=True)

    wanted = BuildOptions.of(None, {"architectures": arch, "profiles": _profiles(batch, length, profiles), **options})
    with phases("build") as progress:
        if kit is not None:
            assert model is not None
            written = write_kit(model, kit, wanted, against=against, progress=progress)
        elif from_kit is not None:
            result = accept_kit(from_kit, output, progress=progress)
        else:
            assert model is not None
            result = build(model, output, wanted, progress=progress, log=log)
    if kit is not None:
        emit(written, as_json, _kit_table)
        return
    if not verbose:
        _summarise_warnings(result)
    emit(result, as_json, _table)


def _check_usage(model: Path | None, kit: Path | None, against: str | None, from_kit: Path | None) -> None:
    """Refuse combinations that mean nothing."""
    if from_kit is not None and (model is not None or kit is not None):
        raise click.UsageError("--from-kit takes no MODEL and no --kit: the kit's result says it all.")
    if from_kit is None and model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    if against is not None and kit is None:
        raise click.UsageError("--against is for --kit; `hsm-export validate` compares the numbers of a file.")


def _profiles(batch: str | None, length: str | None, profiles: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """Complete each --profile with --batch and --length; without any --profile those two are the only one."""
    from ..formats.profile import parse_profile

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
    rows = {
        "target": f"{result.target} {result.target_version}",
        "architectures": ", ".join(result.architectures) or "this machine's GPU",
        "precision": result.precision,
        "mixers": _mixers(result),
        "inputs": _tensors(result.inputs),
        "outputs": _tensors(result.outputs),
        **{
            f"profile {index}": ", ".join(f"{name} {sizes}" for name, sizes in profile.items())
            for index, profile in enumerate(result.profiles)
        },
        "size": f"{result.engine_bytes / 1e6:.2f} MB",
        **_numbers(result),
        "build time": f"{result.build_seconds:.1f} s",
        "side file": str(result.side_file),
    }
    return facts(str(result.engine), rows)


def _numbers(result: BuildResult) -> dict[str, str]:
    if result.numbers is None:
        return {}
    numbers = result.numbers
    return {
        "built on": result.gpu or "",
        "numbers": f"{numbers.worst_output} within {numbers.max_abs_error:.3g} of {numbers.arbiter}, tolerance "
        f"{numbers.tolerance:.3g}, {numbers.cases} cases",
    }


def _mixers(result: BuildResult) -> str:
    if result.plugins is None:
        return "compiled from their function bodies"
    where = "in the engine" if result.plugins.embedded else f"in {result.plugins.file}"
    label = ", EXPERIMENTAL for this target" if result.experimental else ""
    return f"{len(result.plugins.layers)} plugin layers, {where}{label}"


def _kit_table(result: KitResult) -> Table:
    rows = {
        "target": result.target,
        "mixers": f"{result.plugin_layers} plugin layers" if result.plugin_layers else "function bodies",
        "files": f"{result.files}, {result.bytes / 1e6:.2f} MB",
        "cases": f"{result.cases}, numbers of {result.arbiter}",
        "on the GPU machine": f"python {result.kit.name}/build.py",
        "then here": f"hsm-export build --from-kit {result.kit / 'result'} -o ENGINE",
    }
    return facts(str(result.kit), rows)


def _tensors(tensors: tuple[Any, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} ({', '.join(map(str, tensor.shape))})" for tensor in tensors)
