"""Build an engine from an ONNX file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import BadInputError
from ..files import atomic_path
from ..formats.build_options import BuildOptions
from ..formats.engine_file import BuilderWarning
from . import targets
from .cuda_driver import probe
from .options import check_gpu_needs
from .plan import Plan, make_plan
from .process import run_builder
from .result import BuildResult, describe, write_side_file


def build(
    model: str | Path,
    output: str | Path | None = None,
    options: BuildOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    log: Callable[[str, str], None] | None = None,
    **choices: Any,
) -> BuildResult:
    """Build an engine and its side file `<engine>.json` from an ONNX file.

    TensorRT compiles every `hsm` node to one of our plugins, which is checked; TensorRT-RTX compiles the function
    bodies, so that it needs no plugin, and no GPU either.

    Args:
        model: the ONNX file.
        output: the engine; the model's name with the suffix `.engine` when None.
        options: how to build.
        progress: receives the name of each phase.
        log: receives severity and text of each of the builder's warnings and errors.
        choices: the fields of `BuildOptions` one by one, in place of `options`.

    Raises:
        UsageError: options that contradict each other or the model.
        BadInputError: the model is not a usable ONNX file, or the output cannot be written.
        BuildRefusedError: the target cannot take the network, or the builder failed.
        MissingDependencyError: the builder, the plugin library or the GPU it needs is missing.
    """
    report = progress or (lambda _phase: None)
    options = BuildOptions.of(options, choices)
    targets.check_target(options.target)
    check_gpu_needs(options, options.target)
    report("reading the model")
    plan = make_plan(model, options)
    return _execute(plan, engine_path(plan.source.path, output), report, log)


def engine_path(model: Path, output: str | Path | None) -> Path:
    """Return where the engine of a model goes.

    Raises:
        BadInputError: it would overwrite the model.
    """
    engine = Path(output) if output is not None else model.with_suffix(".engine")
    if engine.resolve() == model.resolve():
        raise BadInputError(f"the engine would overwrite the model {model}", "choose another output")
    return engine


def _execute(
    plan: Plan, engine: Path, report: Callable[[str], None], log: Callable[[str, str], None] | None
) -> BuildResult:
    """Run the builder and write engine and side file together."""
    started = time.monotonic()
    warnings: dict[str, int] = {}

    warnings |= dict.fromkeys(plan.notes, 1)

    def record(severity: str, message: str) -> None:
        if severity == "warning":
            warnings[message] = warnings.get(message, 0) + 1
        if log:
            log(severity, message)

    with atomic_path(engine) as scratch:
        facts = run_builder({**job(plan), "engine": str(scratch)}, report, record)
        result = describe(
            plan,
            engine,
            scratch,
            facts,
            build_seconds=round(time.monotonic() - started, 3),
            warnings=tuple(BuilderWarning(message, count) for message, count in warnings.items()),
            gpu=next(iter(probe().devices), None) if plan.target == "tensorrt" else None,
        )
        write_side_file(result)
    return result


def job(plan: Plan) -> dict[str, Any]:
    """Return what the builder's process is told, but for the name of the engine."""
    model = str(plan.source.path.resolve())
    return {
        **plan.settings().to_dict(),
        "target": plan.target,
        "module": targets.MODULES[plan.target],
        "model": model,
        "location": model,
    }
