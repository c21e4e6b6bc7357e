"""Engines, by their side files: deserialising an engine needs the driver of a GPU that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..building.result import SCHEMA, SCHEMA_VERSION, side_file_path
from ..errors import BadInputError
from ..files import read_document, sha256
from ..formats.tensor import Tensor
from .onnx_file import inspect_onnx
from .result import EngineResult, OnnxResult
from .state import state_table

_FLAGS = ("strip_weights", "weight_streaming", "refit", "version_compatible", "experimental")


def inspect_engine(path: Path) -> EngineResult:
    """Describe an engine.

    Raises:
        BadInputError: the side file is missing, damaged, or from a newer version.
    """
    side_file = side_file_path(path)
    data = read_side_file(side_file, path)
    try:
        return _describe(path, side_file, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"{side_file} is not the side file of an engine: {type(error).__name__} {error}", "build the engine again"
        ) from error


def read_side_file(side_file: Path, engine: Path) -> dict[str, Any]:
    """Return what the side file of an engine says.

    Raises:
        BadInputError: it is missing, too large, no side file, or from a newer version.
    """
    if not side_file.is_file():
        raise BadInputError(
            f"{engine} has no side file {side_file.name}, and an engine itself can only be read with a GPU",
            "keep the JSON file that `hsm-export build` writes beside the engine",
        )
    return read_document(side_file, SCHEMA, SCHEMA_VERSION, "the side file of an engine", "build the engine again")


def _describe(path: Path, side_file: Path, data: Mapping[str, Any]) -> EngineResult:
    size = path.stat().st_size
    return EngineResult(
        kind="engine",
        path=path,
        bytes=size,
        side_file=side_file,
        intact=size == data["engine_bytes"] and sha256(path) == data["engine_sha256"],
        target=str(data["target"]),
        target_version=str(data["target_version"]),
        architectures=tuple(map(str, data["architectures"])),
        precision=str(data["precision"]),
        inputs=tuple(map(Tensor.from_json, data["inputs"])),
        outputs=tuple(map(Tensor.from_json, data["outputs"])),
        profiles=tuple(_profile(profile) for profile in data["profiles"]),
        flags=tuple(flag for flag in _FLAGS if data.get(flag)),
        source={"file": str(data["source"]["file"]), "sha256": str(data["source"]["sha256"])},
        layers=int(data["layers"]),
        warnings=tuple(f"{warning['message']} ({warning['count']}x)" for warning in data["warnings"]),
        model={str(name): str(value) for name, value in data["model"].items()},
        onnx=_source_beside(path, data["source"]),
        state=state_table(data["model"], str(side_file)),
        plugins=_plugins(data.get("plugins")),
        gpu=str(data["gpu"]) if data.get("gpu") else None,
    )


def _plugins(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None:
        return None
    layers = {str(name): str(operator) for name, operator in data["layers"].items()}
    return {
        "file": str(data["file"]),
        "sha256": str(data["sha256"]),
        "embedded": bool(data["embedded"]),
        "layers": layers,
        "further": {str(name): str(digest) for name, digest in data.get("further", {}).items()},
    }


def _profile(profile: Mapping[str, Mapping[str, int]]) -> dict[str, tuple[int, int, int]]:
    return {str(name): (int(size["min"]), int(size["opt"]), int(size["max"])) for name, size in profile.items()}


def _source_beside(engine: Path, source: Mapping[str, Any]) -> OnnxResult | None:
    """Describe the ONNX file that the engine was built from, if it still lies beside the engine unchanged."""
    file = engine.parent / Path(str(source["file"])).name
    if not file.is_file() or sha256(file) != source["sha256"]:
        return None
    try:
        return inspect_onnx(file)
    except BadInputError:
        return None  # its external data is gone: the engine does not need it
