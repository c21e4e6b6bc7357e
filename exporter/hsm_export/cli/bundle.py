"""`hsm-export bundle`: one folder to ship a model in, or a model repository for Triton."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import emit, facts, json_option, phases

if TYPE_CHECKING:
    from rich.table import Table

    from ..bundling import BundleResult, VerifyResult
    from ..bundling.triton import RepositoryResult

_PATH = click.Path(path_type=Path)


@click.command("bundle")
@click.argument("model", type=_PATH, required=False)
@click.option("-o", "--output", type=_PATH, help="The folder to write [default: MODEL with suffix .hsm].")
@click.option("--decode", type=_PATH, metavar="FILE", help="The file of `hsm-export export --decode`.")
@click.option(
    "--engine", "engines", type=_PATH, metavar="FILE", multiple=True, help="An engine of one of them; repeatable."
)
@click.option(
    "--tokenizer",
    metavar="FILE",
    help="A tokenizer.json, .model, RWKV's .txt, characters' JSON or checkpoint, or `bytes` [default: bytes for 256 "
    "token ids, else what lies beside CHECKPOINT or MODEL].",
)
@click.option("--against", metavar="CHECKPOINT", help="The source of the self-test's numbers [default: the file].")
@click.option("--force", is_flag=True, help="Replace the bundle or repository that is there.")
@click.option("--format", "layout", type=click.Choice(("hsm", "triton")), default="hsm", show_default=True)
@click.option("--max-batch", type=click.IntRange(1, 1024), help="With --format triton: rows at a time [default: 8].")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="With --format triton: threads of each model [default: 1]."
)
@click.option(
    "--candidates",
    type=click.IntRange(1, 1 << 20),
    help="With --format triton: sequences open at a time [default: 4 times --max-batch].",
)
@click.option(
    "--idle",
    type=click.FloatRange(0.001),
    metavar="SECONDS",
    help="With --format triton: how long a sequence may stand still [default: 60].",
)
@click.option(
    "--capacity",
    type=click.IntRange(1),
    metavar="TOKENS",
    help="With --format triton: what a text may reach, where the file leaves that open [default: 4096].",
)
@click.option(
    "--libraries",
    metavar="DIR",
    help="With --format triton: our libraries' folder on the server [default: its path].",
)
@click.option("--verify", type=_PATH, metavar="BUNDLE", help="Write nothing: check a bundle from anybody.")
@click.option("--self-test", is_flag=True, help="With --verify: run the bundle's self-test here.")
@json_option
def command(
    model: Path | None,
    output: Path | None,
    decode: Path | None,
    engines: tuple[Path, ...],
    tokenizer: str | None,
    against: str | None,
    force: bool,
    layout: str,
    max_batch: int | None,
    threads: int | None,
    candidates: int | None,
    idle: float | None,
    capacity: int | None,
    libraries: str | None,
    verify: Path | None,
    self_test: bool,
    as_json: bool,
) -> None:
    """Put MODEL (an ONNX file), its engines and a self-test into one folder to ship.

    The bundle's readers in Python and C++ check every file before they use any. With --format triton the folder is a
    model repository for Triton Inference Server instead.

    \b
    Examples:
      hsm-export bundle model.onnx --against zoo:hsm-lm -o model.hsm
      hsm-export bundle model.onnx --decode decode.onnx --engine model.engine -o model.hsm
      hsm-export bundle --verify model.hsm --self-test
      hsm-export bundle model.onnx --decode decode.onnx --format triton -o model_repository
    """
    given = {"MODEL": model, "--decode": decode, "--engine": engines, "--tokenizer": tokenizer, "--against": against}
    if verify is not None:
        _refuse([name for name, value in {**given, "-o": output, "--force": force}.items() if value], "--verify")
        _verify(verify, self_test, as_json)
        return
    if self_test:
        raise click.UsageError("--self-test is for --verify.")
    serving = {
        "max_batch": max_batch,
        "threads": threads,
        "candidates": candidates,
        "idle": idle,
        "capacity": capacity,
        "libraries": libraries,
    }
    chosen = {name: value for name, value in serving.items() if value is not None}
    if layout == "triton":
        _refuse([name for name in ("--against",) if given[name]], "--format triton")
        _triton(model, output, {"engines": engines, "decode": decode, "tokenizer": tokenizer, **chosen}, force, as_json)
        return
    _refuse([f"--{name.replace('_', '-')}" for name in chosen], "a bundle")
    from ..bundling import bundle

    with phases("bundle") as progress:
        result = bundle(
            model,
            output,
            engines=engines,
            decode=decode,
            tokenizer=tokenizer,
            against=against,
            force=force,
            progress=progress,
        )
    emit(result, as_json, _bundle_table)


def _refuse(unfit: list[str], what: str) -> None:
    if unfit:
        raise click.UsageError(f"{' and '.join(unfit)} cannot be given with {what}.")


def _verify(path: Path, self_test: bool, as_json: bool) -> None:
    from ..bundling import verify_bundle
    from ..runtimes import get

    runtime = None
    if self_test:
        runtime = "ort-fused" if get("ort-fused").available() is None else "ort"
    with phases("verify") as progress:
        result = verify_bundle(path, self_test=runtime, progress=progress)
    emit(result, as_json, _verify_table)


def _triton(model: Path | None, output: Path | None, options: dict[str, Any], force: bool, as_json: bool) -> None:
    from ..bundling.triton import write_repository

    if output is None:
        raise click.UsageError("--format triton needs -o, the model repository to write.")
    with phases("bundle") as progress:
        result = write_repository(model, output, **options, force=force, progress=progress)
    emit(result, as_json, _repository_table)


def _bundle_table(result: BundleResult) -> Table:
    tolerances = ", ".join(f"{name} within {value:.3g}" for name, value in result.tolerances.items())
    rows = {
        **_common(result),
        "tokenizer": result.tokenizer or "none",
        "self-test": f"{tolerances} of {result.arbiter}",
        **_libraries(result.libraries),
        **{f"note {index}": note for index, note in enumerate(result.notes, 1)},
        "check it": f"hsm-export bundle --verify {result.bundle} --self-test",
    }
    return facts(str(result.bundle), rows)


def _verify_table(result: VerifyResult) -> Table:
    checks = ", ".join(f"{c.output} off by {c.max_abs_error:.3g} of {c.tolerance:.3g} allowed" for c in result.checks)
    places = {name: str(place or "not here") for name, place in result.libraries.items()}
    rows = {
        "verdict": "whole and consistent",
        **_common(result),
        **_libraries(places),
        "self-test": f"passed in {result.runtime}: {checks}" if result.runtime else "not run (--self-test)",
    }
    return facts(str(result.bundle), rows)


def _repository_table(result: RepositoryResult) -> Table:
    rows = {
        **{f"model {name}": description for name, description in result.models.items()},
        "max batch": str(result.max_batch),
        "left out": "; ".join(result.left_out) or "nothing",
        "start": result.command,
    }
    return facts(str(result.repository), rows)


def _libraries(found: Mapping[str, str]) -> dict[str, str]:
    return {"needs": "\n".join(f"{name}: {what}" for name, what in found.items())} if found else {}


def _common(result: BundleResult | VerifyResult) -> dict[str, str]:
    engines = [f"{name} ({', '.join(gpus) or 'GPU unknown'})" for name, gpus in result.engines.items()]
    return {
        "task": result.task or "unknown",
        "precision": result.precision,
        "models": ", ".join(f"{part}.onnx" for part in result.parts),
        "engines": ", ".join(engines) or "none",
        "files": f"{result.files}, {result.bytes / 1e6:.2f} MB",
    }
