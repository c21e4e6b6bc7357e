"""A kit's manifest `kit.json`: the plan of the build, and the SHA-256 of every file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..building.plan import Plan
from ..building.portable.kit import KIT_FILE, digest
from ..building.targets import EXTRAS, MODULES
from ..formats.build_options import EngineOptions
from ..formats.document import read_file
from ..formats.kit import KitCase, KitDigest, KitFile, KitPlan, KitSource
from ..onnx_model.model_file import FileFacts

# What pip calls the packages that a kit needs on the GPU machine.
_PACKAGES = {"tensorrt": "tensorrt-cu13", "tensorrt-rtx": "tensorrt-rtx-cu13"}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a kit says about itself.

    Attributes:
        plan: the build; its library and source lie in the kit.
        files: SHA-256 of every file, by its name in the kit.
        cases: per case its "name" and the "tolerances" of its outputs.
        arbiter: the runtime whose float64 numbers are the references.
        compared: share of the outputs' elements that are compared.
    """

    plan: Plan
    files: Mapping[str, str]
    cases: Sequence[Mapping[str, Any]]
    arbiter: str
    compared: float


def write_manifest(kit: Path, manifest: Manifest) -> None:
    """Write `kit.json`; everything else of the kit must be there already."""
    plan = manifest.plan
    settings = dataclasses.replace(plan.settings(), plugin_libraries=[library.name for library in plan.libraries])
    document = KitFile(
        module=MODULES[plan.target],
        package=_PACKAGES[plan.target],
        extra=EXTRAS[plan.target],
        settings=settings.to_dict(),
        plan=_described(plan),
        cases=tuple(KitCase(case["name"], dict(case["tolerances"])) for case in manifest.cases),
        arbiter=manifest.arbiter,
        compared=manifest.compared,
        files={name: KitDigest(manifest.files[name]) for name in sorted(manifest.files)},
    )
    document.write(kit / KIT_FILE)


def read_manifest(kit: Path) -> Manifest:
    """Read `kit.json`.

    Raises:
        BadInputError: it is missing, damaged, or of a newer version.
    """
    found = read_file(kit / KIT_FILE, KitFile, "a hsm-export.kit file", "write the kit again")
    files = {name: entry.sha256 for name, entry in found.files.items()}
    cases = [msgspec.structs.asdict(case) for case in found.cases]
    return Manifest(_plan(kit, found.plan), files, cases, found.arbiter, found.compared)


def file_digests(kit: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a kit's folder, by its name in the kit."""
    return {path.relative_to(kit).as_posix(): digest(path) for path in sorted(kit.rglob("*")) if path.is_file()}


def _described(plan: Plan) -> KitPlan:
    source = plan.source
    options = {name: getattr(plan.options, name) for name in EngineOptions.__struct_fields__}
    return KitPlan(
        target=plan.target,
        architectures=plan.architectures,
        profiles=plan.profiles,
        options=EngineOptions(**{**options, "timing_cache": None}),
        libraries=tuple(library.name for library in plan.libraries),
        nodes=dict(plan.nodes),
        source=KitSource(
            file=source.path.name,
            sha256=source.sha256,
            precision=source.precision,
            inputs=source.inputs,
            outputs=source.outputs,
            external_data=dict(source.external_data),
            metadata=dict(source.metadata),
        ),
    )


def _plan(kit: Path, plan: KitPlan) -> Plan:
    source = msgspec.structs.asdict(plan.source)
    return Plan(
        source=FileFacts(path=kit / Path(source.pop("file")).name, **source),
        target=plan.target,
        architectures=plan.architectures,
        profiles=plan.profiles,
        options=plan.options,
        libraries=tuple(kit / Path(library).name for library in plan.libraries),
        nodes=plan.nodes,
    )
