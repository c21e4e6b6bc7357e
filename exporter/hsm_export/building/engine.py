"""Build an engine from an ONNX file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInputError
from ..files import atomic_path
from ..formats.profile import Size
from . import targets
from .cuda_driver import probe
from .options import Options, check_gpu_needs
from .plan import Plan, make_plan
from .process import run_builder
from .result import BuilderWarning, BuildResult, describe, write_side_file


def build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    target: str = "tensorrt-rtx",
    architectures: str | Iterable[str] | None = None,
    profiles: Sequence[Mapping[str, Size]] = (),
    plugins: bool | None = None,
    embed_plugins: bool = False,
    strip_weights: bool = False,
    weight_streaming: bool = False,
    refit: bool = False,
    version_compatible: bool = False,
    hardware_compatibility: str | None = None,
    timing_cache: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    log: Callable[[str, str], None] | None = None,
) -> BuildResult:
    """Build an engine and its side file `<engine>.json` from an ONNX file.

    TensorRT compiles every `hsm` node to one of our plugins, which is checked; TensorRT-RTX compiles the function
    bodies, so that it needs no plugin, and no GPU either.

    Args:
        model: the ONNX file.
        output: the engine; the model's name with the suffix `.engine` when None.
        target: "tensorrt-rtx" or "tensorrt".
        architectures: GPU architectures such as "sm86", for TensorRT-RTX only; sm80, sm86, sm89 and sm120 by default.
        profiles: sizes of the dynamic dimensions by name, each a number, "min:opt:max" or (min, opt, max); one mapping
            a profile. Dimensions left out take batch 1:1:8 and length 1:512:4096, or the model's own limit. A
            decoding file without any length gets two profiles, for single steps and for prompts.
        plugins: compile `hsm` nodes to plugins (experimental for TensorRT-RTX) or from their bodies; None: plugins
            for TensorRT only.
        embed_plugins: put the plugin library into the engine; needs `version_compatible`.
        strip_weights: leave the weights out of the engine; needs a GPU.
        weight_streaming: let the engine stream weights from the host.
        refit: let the weights be replaced later; needs a GPU.
        version_compatible: let newer versions of TensorRT run the engine.
        hardware_compatibility: "ampere+" or "same-compute-capability": let other GPUs run the engine.
        timing_cache: file that keeps measured times from one build to the next; made when missing.
        progress: receives the name of each phase.
        log: receives severity and text of each of the builder's warnings and errors.

    Raises:
        UsageError: options that contradict each other or the model.
        BadInputError: the model is not a usable ONNX file, or the output cannot be written.
        BuildRefusedError: the target cannot take the network, or the builder failed.
        MissingDependencyError: the builder, the plugin library or the GPU it needs is missing.
    """
    report = progress or (lambda _phase: None)
    options = Options(
        plugins=plugins,
        embed_plugins=embed_plugins,
        strip_weights=strip_weights,
        weight_streaming=weight_streaming,
        refit=refit,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        timing_cache=Path(timing_cache) if timing_cache is not None else None,
    )
    targets.check_target(target)
    check_gpu_needs(options, target)
    report("reading the model")
    plan = make_plan(model, target, architectures, profiles, options)
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
