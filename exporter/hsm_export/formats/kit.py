"""The documents of a build kit: `kit.json`, which travels to a GPU machine, and `result.json`, which comes back.

The kit's own program knows them as plain JSON: it has neither this package nor msgspec.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from .build_options import EngineOptions, Target
from .document import Document
from .profile import Profile
from .tensor import Tensor

FileName = Annotated[str, Meta(min_length=1)]


class KitSource(Document, frozen=True):
    """The ONNX file that a kit was made from; the names are those of `FileFacts`."""

    file: str
    sha256: str
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    external_data: dict[str, str]
    metadata: dict[str, str]


class KitPlan(Document, frozen=True):
    """The build; the names are those of `Plan`."""

    target: Target
    architectures: tuple[str, ...]
    profiles: tuple[Profile, ...]
    options: EngineOptions
    libraries: tuple[str, ...]
    nodes: dict[str, str]
    source: KitSource


class KitCase(Document, frozen=True):
    """A set of inputs, and the largest error of each output."""

    name: str
    tolerances: dict[str, float]


class KitDigest(Document, frozen=True):
    """What a file of a kit must be."""

    sha256: str


class KitFile(Document, frozen=True, kw_only=True):
    """`kit.json`.

    Attributes:
        module, package, extra: TensorRT's Python module, its package, and the extra of hsm-export that installs it.
        settings: what the builder is told; see `building.portable.compiling.Settings`.
        plan: the build, of which `settings` follows.
        cases: what is compared.
        arbiter: the runtime whose float64 numbers are the references.
        compared: share of the outputs' elements that are compared.
        files: every other file of the kit, by its name.
    """

    schema: Literal["hsm-export.kit"] = "hsm-export.kit"
    schema_version: Literal[2] = 2
    module: str
    package: str
    extra: str
    settings: dict[str, Any]
    plan: KitPlan
    cases: tuple[KitCase, ...]
    arbiter: str
    compared: float
    files: dict[str, KitDigest]


class BuilderFacts(Document, frozen=True):
    """What only the builder knows; of an engine that trtexec built it is empty but for the version."""

    version: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    layers: int
    plugin_layers: tuple[str, ...]


class KitVerdict(Document, frozen=True):
    """What one output of one case came to on the GPU; the names are those of `building.portable.judging.Verdict`."""

    case: str
    output: str
    error: float
    tolerance: float
    problem: str | None


class KitRun(Document, frozen=True, kw_only=True):
    """`result.json`."""

    schema: Literal["hsm-export.kit-result"] = "hsm-export.kit-result"
    schema_version: Literal[1] = 1
    kit_sha256: str
    files: dict[str, str]
    facts: BuilderFacts
    gpu: str | None
    build_seconds: float
    verdicts: tuple[KitVerdict, ...]
    warnings: tuple[str, ...]
