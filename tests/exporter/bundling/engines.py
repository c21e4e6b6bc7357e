"""Engines that were never built: bytes with the side file that a build would have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hsm_export.files import sha256
from hsm_export.formats.engine_file import side_file_path
from hsm_export.onnx_model.model_file import open_model


def pretend_engine(path: Path, model: Path, **changes: Any) -> Path:
    """Write an engine of a model: some bytes, and a side file in which `changes` are made."""
    source = open_model(model).facts
    path.write_bytes(b"engine " + path.name.encode())
    data = {
        "schema": "hsm-export.engine",
        "schema_version": 1,
        "engine": path.name,
        "engine_sha256": sha256(path),
        "engine_bytes": path.stat().st_size,
        "target": "tensorrt",
        "target_version": "10.14.1",
        "architectures": [],
        "gpu": "NVIDIA A10 (sm86)",
        "precision": source.precision,
        "inputs": [tensor.to_dict() for tensor in source.inputs],
        "outputs": [tensor.to_dict() for tensor in source.outputs],
        "strip_weights": False,
        "weight_streaming": False,
        "refit": False,
        "layers": 17,
        "build_seconds": 1.0,
        "peak_memory_bytes": None,
        "warnings": [],
        "model": dict(source.metadata),
        "hsm_export_version": "0.1.0",
        "plugins": {"file": "libhsm_tensorrt.so", "sha256": "0" * 64, "embedded": False, "layers": {}},
        "profiles": [{"batch": {"min": 1, "opt": 1, "max": 4}, "length": {"min": 1, "opt": 8, "max": 32}}],
        "source": {"file": model.name, "sha256": source.sha256, "external_data": dict(source.external_data)},
        **changes,
    }
    side_file_path(path).write_text(json.dumps(data))
    return path
