"""Build an engine from an ONNX file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import BadInputError, BuildRefusedError, UsageError
from ..files import atomic_path, sha256
from . import targets
from .cuda_driver import probe
from .process import run_builder
from .profiles import Profile, Size, input_shapes, resolve_profiles
from .result import BuilderWarning, BuildResult, SourceFile, side_file_path, side_file_text
from .source import Source, Tensor, operators_by_type, read_source

# TensorRT's names of element types, in the field's usual spelling.
_DTYPES = {"float": "float32", "half": "float16", "bf16": "bfloat16"}


def build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    target: str = "tensorrt-rtx",
    architectures: str | Iterable[str] | None = None,
    profiles: Sequence[Mapping[str, Size]] = (),
    strip_weights: bool = False,
    weight_streaming: bool = False,
    refit: bool = False,
    progress: Callable[[str], None] | None = None,
    log: Callable[[str, str], None] | None = None,
) -> BuildResult:
    """Build an engine and its side file `<engine>.json` from an ONNX file.

    The function bodies of the `hsm` operators are compiled, so no plugin is needed. TensorRT-RTX needs no GPU.

    Args:
        model: the ONNX file.
        output: the engine; the model's name with the suffix `.engine` when None.
        target: "tensorrt-rtx" or "tensorrt".
        architectures: GPU architectures such as "sm86", for TensorRT-RTX only; sm80, sm86, sm89 and sm120 by default.
        profiles: sizes of the dynamic dimensions by name, each a number, "min:opt:max" or (min, opt, max); one mapping
            a profile. Dimensions left out take batch 1:1:8 and length 1:512:4096, or the model's own limit.
        strip_weights: leave the weights out of the engine; needs a GPU.
        weight_streaming: let the engine stream weights from the host.
        refit: let the weights be replaced later; needs a GPU.
        progress: receives the name of each phase.
        log: receives severity and text of each of the builder's warnings and errors.

    Raises:
        UsageError: options that contradict each other or the model.
        BadInputError: the model is not a usable ONNX file, or the output cannot be written.
        BuildRefusedError: the target cannot take the network, or the builder failed.
        MissingDependencyError: the builder or the GPU it needs is missing.
    """
    started = time.monotonic()
    report = progress or (lambda _phase: None)
    targets.check_target(target)
    chosen = _choose_architectures(target, architectures)
    _check_weights_options(target, strip_weights, refit)
    report("reading the model")
    source = read_source(model)
    resolved = resolve_profiles(source, profiles)
    if "sm75" in chosen:
        targets.check_architectures(chosen, operators_by_type(source.path))
    engine = _engine_path(source, output)
    options = {"strip_weights": strip_weights, "weight_streaming": weight_streaming, "refit": refit}
    job = _job(source, target, chosen, resolved, options)
    warnings: dict[str, int] = {}

    def record(severity: str, message: str) -> None:
        if severity == "warning":
            warnings[message] = warnings.get(message, 0) + 1
        if log:
            log(severity, message)

    with atomic_path(engine) as scratch:
        built = run_builder({**job, "engine": str(scratch)}, report, record)
        result = BuildResult(
            engine=engine,
            side_file=side_file_path(engine),
            target=target,
            target_version=built["version"],
            architectures=chosen,
            precision=source.precision,
            inputs=_bound(source.inputs, built["inputs"]),
            outputs=_bound(source.outputs, built["outputs"]),
            profiles=resolved,
            **options,
            source=SourceFile(source.path.name, source.sha256, source.external_data),
            engine_bytes=scratch.stat().st_size,
            engine_sha256=sha256(scratch),
            layers=built["layers"],
            build_seconds=round(time.monotonic() - started, 3),
            peak_memory_bytes=built["peak_memory_bytes"],
            warnings=tuple(BuilderWarning(message, count) for message, count in warnings.items()),
            model=source.metadata,
            hsm_export_version=version("hsm-export"),
        )
        with atomic_path(result.side_file) as side_scratch:
            side_scratch.write_text(side_file_text(result), encoding="utf-8")
    return result


def _choose_architectures(target: str, architectures: str | Iterable[str] | None) -> tuple[str, ...]:
    if target == "tensorrt-rtx":
        return targets.parse_architectures(targets.DEFAULT_ARCHITECTURES if architectures is None else architectures)
    if architectures is not None:
        raise UsageError(
            "TensorRT builds for the GPU of this machine, so --arch has no meaning with --target tensorrt",
            "leave --arch out, or use --target tensorrt-rtx",
        )
    return ()


def _check_weights_options(target: str, strip_weights: bool, refit: bool) -> None:
    """TensorRT-RTX 1.7 calls CUDA while it compiles a refittable or stripped engine, and fails without a GPU."""
    wanted = " and ".join(flag for flag, given in (("--strip-weights", strip_weights), ("--refit", refit)) if given)
    if not wanted or target != "tensorrt-rtx":
        return
    driver = probe()
    if not driver.devices:
        raise BuildRefusedError(
            f"TensorRT-RTX builds engines with {wanted} only on a machine with a GPU, and {driver.reason}",
            f"leave {wanted} out, or build on a machine with an NVIDIA GPU",
        )


def _engine_path(source: Source, output: str | Path | None) -> Path:
    engine = Path(output) if output is not None else source.path.with_suffix(".engine")
    if engine.resolve() == source.path.resolve():
        raise BadInputError(f"the engine would overwrite the model {source.path}", "choose another output")
    return engine


def _job(
    source: Source, target: str, architectures: tuple[str, ...], profiles: tuple[Profile, ...], options: dict[str, bool]
) -> dict[str, Any]:
    return {
        "model": str(source.path.resolve()),
        "target": target,
        "product": targets.PRODUCTS[target],
        "destination": ", ".join(architectures) or "this machine's GPU",
        "architectures": list(architectures),
        "profiles": [input_shapes(source, profile) for profile in profiles],
        **options,
    }


def _bound(tensors: tuple[Tensor, ...], types: dict[str, str]) -> tuple[Tensor, ...]:
    """The tensors that the engine binds, with the element types that the builder gave them."""
    return tuple(
        Tensor(tensor.name, _DTYPES.get(types[tensor.name], types[tensor.name]), tensor.shape)
        for tensor in tensors
        if tensor.name in types
    )
