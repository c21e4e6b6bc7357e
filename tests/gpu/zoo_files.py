"""Zoo models as ONNX files, exported once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import hsm_export
from hsm_models import zoo

MODELS = tuple(zoo.names())
MIXED = tuple(name for name in MODELS if name != "baseline-softmax")
PRECISIONS = ("fp32", "fp16", "bf16")
PROFILES = [{"batch": "1:1:4", "length": "1:64:512"}]


@cache
def zoo_file(name: str, precision: str) -> Path:
    """Return the path of a zoo model's ONNX file in a temporary directory."""
    path = Path(mkdtemp(prefix="hsm-zoo-")) / f"{name}-{precision}.onnx"
    hsm_export.export(f"zoo:{name}", output=path, precision=precision)
    return path


def profiles(name: str) -> list[dict[str, str]]:
    """Return profiles that the model takes: the digits have a fixed length."""
    return [{"batch": "1:4:16"}] if name == "taylor-shift-digits" else PROFILES
