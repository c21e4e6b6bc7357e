"""What a build returns, and the side file that travels with the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results import Result
from .profiles import Profile
from .source import Tensor

SCHEMA = "hsm-export.engine"
SCHEMA_VERSION = 1


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


def side_file_path(engine: str | Path) -> Path:
    """Return the path of an engine's side file."""
    return Path(f"{engine}.json")


def side_file_text(result: BuildResult) -> str:
    """Return the side file of an engine: the result as JSON with a schema, and no directories of this machine."""
    data: dict[str, Any] = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **result.to_dict()}
    data["engine"] = result.engine.name
    del data["side_file"]
    return json.dumps(data, indent=2, allow_nan=False) + "\n"
