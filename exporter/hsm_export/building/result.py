"""What a build returns, and the side file that travels with the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dtypes import ELEMENT_TYPES
from ..files import atomic_path, sha256
from ..formats.profile import Profile
from ..formats.result import Result
from ..formats.tensor import Tensor

if TYPE_CHECKING:
    from .plan import Plan

SCHEMA = "hsm-export.engine"
SCHEMA_VERSION = 1

# TensorRT's names of element types, in the field's usual spelling.
_DTYPES = {item.tensorrt: item.name for item in ELEMENT_TYPES if item.tensorrt}


@dataclass(frozen=True)
class BuilderWarning:
    """A warning of the builder and how often it came."""

    message: str
    count: int


@dataclass(frozen=True)
class SourceFile:
    """The ONNX file that an engine was built from.

    Attributes:
        file: its name, without directories.
        sha256: SHA-256 of its bytes.
        external_data: SHA-256 of each external data file, by name.
    """

    file: str
    sha256: str
    external_data: Mapping[str, str]


@dataclass(frozen=True)
class PluginUse:
    """The plugins in an engine.

    Attributes:
        file: name of their library, which a program must load before the engine unless it is embedded.
        sha256: SHA-256 of the library.
        embedded: whether the engine holds the library.
        layers: operator of every plugin layer, by its name in the ONNX file.
        further: SHA-256 of the libraries of operators of others, which are loaded too, by name.
    """

    file: str
    sha256: str
    embedded: bool
    layers: Mapping[str, str]
    further: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NumbersCheck:
    """What was compared after the engine had run on a GPU.

    Attributes:
        cases: sets of inputs.
        arbiter: the runtime whose float64 numbers were the reference.
        worst_output: the output nearest to its tolerance.
        max_abs_error: largest absolute error there.
        tolerance: what it may be.
    """

    cases: int
    arbiter: str
    worst_output: str
    max_abs_error: float
    tolerance: float


@dataclass(frozen=True)
class BuildResult(Result):
    """An engine.

    Attributes:
        engine: the engine file.
        side_file: the JSON file beside it that describes it.
        target: "tensorrt-rtx" or "tensorrt".
        target_version: version of that library; an engine needs the same one at run time.
        architectures: GPU architectures that the engine runs on; empty: the GPU it was built on.
        precision: "fp32", "fp16" or "bf16".
        inputs: names, element types and shapes, with the names of dynamic dimensions.
        outputs: the same of the outputs.
        profiles: sizes of the dynamic dimensions; empty when all shapes are fixed.
        strip_weights: the engine holds no weights and must be refitted before use.
        weight_streaming: the engine can stream weights that do not fit the GPU's memory.
        refit: the engine's weights can be replaced.
        source: the ONNX file.
        engine_bytes: size of the engine.
        engine_sha256: SHA-256 of the engine.
        layers: layers of the network before the builder fused them.
        build_seconds: wall time of the build.
        peak_memory_bytes: most memory that the builder's process held, or None where the system does not tell.
        warnings: the builder's distinct warnings.
        model: what the exporter recorded in the ONNX file (configuration, checkpoint's SHA-256, versions).
        hsm_export_version: version of this package.
        plugins: the plugins in the engine; None when it was compiled from the function bodies.
        experimental: the builder's vendor does not support such an engine (plugins in TensorRT-RTX).
        version_compatible: newer versions of TensorRT run the engine too.
        hardware_compatibility: which other GPUs run it ("ampere+", "same-compute-capability"), or None.
        gpu: the GPU that it was built on, or None where none was needed.
        numbers: what was compared on that GPU; None when the engine was not run.
    """

    engine: Path
    side_file: Path
    target: str
    target_version: str
    architectures: tuple[str, ...]
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: tuple[Profile, ...]
    strip_weights: bool
    weight_streaming: bool
    refit: bool
    source: SourceFile
    engine_bytes: int
    engine_sha256: str
    layers: int
    build_seconds: float
    peak_memory_bytes: int | None
    warnings: tuple[BuilderWarning, ...]
    model: Mapping[str, str]
    hsm_export_version: str
    plugins: PluginUse | None = None
    experimental: bool = False
    version_compatible: bool = False
    hardware_compatibility: str | None = None
    gpu: str | None = None
    numbers: NumbersCheck | None = None


def describe(plan: Plan, engine: Path, written: Path, facts: Mapping[str, Any], **rest: Any) -> BuildResult:
    """Return the result of a build.

    Args:
        plan: what was built.
        engine: where the engine will be.
        written: where its bytes are now.
        facts: what only the builder knows, as `Compiled.facts` and the builder's process tell it.
        rest: build_seconds, warnings, gpu, numbers.
    """
    options = plan.options
    return BuildResult(
        engine=engine,
        side_file=side_file_path(engine),
        target=plan.target,
        target_version=facts["version"],
        architectures=plan.architectures,
        precision=plan.source.precision,
        inputs=_bound(plan.source.inputs, facts["inputs"]),
        outputs=_bound(plan.source.outputs, facts["outputs"]),
        profiles=plan.profiles,
        strip_weights=options.strip_weights,
        weight_streaming=options.weight_streaming,
        refit=options.refit,
        source=SourceFile(plan.source.path.name, plan.source.sha256, plan.source.external_data),
        engine_bytes=written.stat().st_size,
        engine_sha256=sha256(written),
        layers=facts["layers"],
        peak_memory_bytes=facts.get("peak_memory_bytes"),
        model=plan.source.metadata,
        hsm_export_version=version("hsm-export"),
        plugins=_plugin_use(plan),
        experimental=plan.experimental,
        version_compatible=options.version_compatible,
        hardware_compatibility=options.hardware_compatibility,
        **rest,
    )


def _plugin_use(plan: Plan) -> PluginUse | None:
    if not plan.libraries:
        return None
    first, *others = plan.libraries
    further = {library.name: sha256(library) for library in others}
    return PluginUse(first.name, sha256(first), plan.options.embed_plugins, plan.nodes, further)


def _bound(tensors: tuple[Tensor, ...], types: Mapping[str, str]) -> tuple[Tensor, ...]:
    """The tensors that the engine binds, with the element types that the builder gave them."""
    return tuple(
        Tensor(tensor.name, _DTYPES.get(types[tensor.name], types[tensor.name]), tensor.shape)
        for tensor in tensors
        if tensor.name in types
    )


def side_file_path(engine: str | Path) -> Path:
    """Return the path of an engine's side file."""
    return Path(f"{engine}.json")


def write_side_file(result: BuildResult) -> None:
    """Write the side file of an engine: the result as JSON with a schema, and no directories of this machine."""
    data: dict[str, Any] = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **result.to_dict()}
    data["engine"] = result.engine.name
    del data["side_file"]
    with atomic_path(result.side_file) as scratch:
        scratch.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
