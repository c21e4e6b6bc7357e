"""A kit's manifest `kit.json`: the plan of the build, and the SHA-256 of every file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..building.options import Options
from ..building.plan import Plan
from ..building.portable.kit import KIT_FILE, digest
from ..building.targets import EXTRAS, MODULES
from ..errors import BadInputError
from ..files import read_document, require_file
from ..formats.profile import Range
from ..formats.tensor import Tensor
from ..onnx_model.model_file import FileFacts

SCHEMA, SCHEMA_VERSION = "hsm-export.kit", 2
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
    data = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "module": MODULES[plan.target],
        "package": _PACKAGES[plan.target],
        "extra": EXTRAS[plan.target],
        "settings": settings.to_dict(),
        "plan": _plan_data(plan),
        "cases": list(manifest.cases),
        "arbiter": manifest.arbiter,
        "compared": manifest.compared,
        "files": {name: {"sha256": manifest.files[name]} for name in sorted(manifest.files)},
    }
    (kit / KIT_FILE).write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(kit: Path) -> Manifest:
    """Read `kit.json`.

    Raises:
        BadInputError: it is missing, damaged, or of a newer version.
    """
    path = require_file(kit / KIT_FILE, "the kit's manifest")
    data = read_document(path, SCHEMA, SCHEMA_VERSION, f"a {SCHEMA} file", "write the kit again")
    try:
        files = {str(name): str(entry["sha256"]) for name, entry in data["files"].items()}
        cases = [
            {"name": str(case["name"]), "tolerances": {str(k): float(v) for k, v in case["tolerances"].items()}}
            for case in data["cases"]
        ]
        return Manifest(_plan(kit, data["plan"]), files, cases, str(data["arbiter"]), float(data["compared"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"{path} is not a kit's manifest: {type(error).__name__} {error}", "write the kit again"
        ) from error


def file_digests(kit: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a kit's folder, by its name in the kit."""
    return {path.relative_to(kit).as_posix(): digest(path) for path in sorted(kit.rglob("*")) if path.is_file()}


def _plan_data(plan: Plan) -> dict[str, Any]:
    source = plan.source
    options = {**dataclasses.asdict(plan.options), "timing_cache": None}
    return {
        "target": plan.target,
        "architectures": list(plan.architectures),
        "profiles": [{name: dataclasses.asdict(sizes) for name, sizes in item.items()} for item in plan.profiles],
        "options": options,
        "libraries": [library.name for library in plan.libraries],
        "nodes": dict(plan.nodes),
        "source": {
            "file": source.path.name,
            "sha256": source.sha256,
            "precision": source.precision,
            "inputs": [dataclasses.asdict(tensor) for tensor in source.inputs],
            "outputs": [dataclasses.asdict(tensor) for tensor in source.outputs],
            "external_data": dict(source.external_data),
            "metadata": dict(source.metadata),
        },
    }


def _plan(kit: Path, data: Mapping[str, Any]) -> Plan:
    source = data["source"]
    if data["target"] not in MODULES:
        raise ValueError(f"unknown target {data['target']!r}")
    return Plan(
        source=FileFacts(
            path=kit / Path(str(source["file"])).name,
            sha256=str(source["sha256"]),
            inputs=tuple(map(Tensor.from_json, source["inputs"])),
            outputs=tuple(map(Tensor.from_json, source["outputs"])),
            precision=str(source["precision"]),
            external_data={str(name): str(sha) for name, sha in source["external_data"].items()},
            metadata={str(key): str(value) for key, value in source["metadata"].items()},
        ),
        target=data["target"],
        architectures=tuple(map(str, data["architectures"])),
        profiles=tuple(
            {str(name): Range(int(s["min"]), int(s["opt"]), int(s["max"])) for name, s in item.items()}
            for item in data["profiles"]
        ),
        options=Options(**data["options"]),
        libraries=tuple(kit / Path(str(library)).name for library in data["libraries"]),
        nodes={str(name): str(operator) for name, operator in data["nodes"].items()},
    )
