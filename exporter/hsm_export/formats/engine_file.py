"""The side file of an engine: a JSON file that says what it is, from what it was built and what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ..errors import BadInputError
from .build_options import Target
from .document import Document, read_file
from .profile import Profile
from .tensor import Tensor


class BuilderWarning(Document, frozen=True):
    """A warning of the builder and how often it came."""

    message: str
    count: int


class SourceFile(Document, frozen=True):
    """The ONNX file that an engine was built from.

    Attributes:
        file: its name, without directories.
        sha256: SHA-256 of its bytes.
        external_data: SHA-256 of each external data file, by name.
    """

    file: str
    sha256: str
    external_data: dict[str, str]


class PluginUse(Document, frozen=True):
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
    layers: dict[str, str]
    further: dict[str, str] = msgspec.field(default_factory=dict)


class NumbersCheck(Document, frozen=True):
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


class EngineFacts(Document, frozen=True, kw_only=True):
    """What is known of an engine, wherever it lies.

    Attributes:
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

    target: Target
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
    model: dict[str, str]
    hsm_export_version: str
    plugins: PluginUse | None = None
    experimental: bool = False
    version_compatible: bool = False
    hardware_compatibility: str | None = None
    gpu: str | None = None
    numbers: NumbersCheck | None = None


class EngineFile(EngineFacts, frozen=True, kw_only=True):
    """A side file.

    Attributes:
        engine: name of the engine file beside it.
    """

    schema: Literal["hsm-export.engine"] = "hsm-export.engine"
    schema_version: Literal[1] = 1
    engine: str

    @property
    def libraries(self) -> dict[str, str]:
        """SHA-256 of the plugin libraries that must be loaded before the engine, by name."""
        if self.plugins is None or self.plugins.embedded:
            return {}
        return {self.plugins.file: self.plugins.sha256, **self.plugins.further}


def side_file_path(engine: str | Path) -> Path:
    """Return the path of an engine's side file."""
    return Path(f"{engine}.json")


def read_side_file(engine: Path) -> EngineFile:
    """Return what the side file of an engine says.

    Raises:
        BadInputError: it is missing, too large, no side file, or from a newer version.
    """
    path = side_file_path(engine)
    if not path.is_file():
        raise BadInputError(
            f"{engine} has no side file {path.name}, and an engine itself can only be read with a GPU",
            "keep the JSON file that `hsm-export build` writes beside the engine",
        )
    return read_file(path, EngineFile, "the side file of an engine", "build the engine again")
