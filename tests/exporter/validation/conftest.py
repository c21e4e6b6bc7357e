"""Fixtures: the tiny model and a function that writes it as an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.exporter.validation.tiny import TinyModel, tiny_model, write_tiny


@pytest.fixture
def tiny() -> TinyModel:
    return tiny_model()


@pytest.fixture
def to_onnx(tmp_path: Path) -> Callable[..., Path]:
    def write(module: TinyModel, precision: str = "fp32", name: str = "tiny.onnx", **metadata: str) -> Path:
        return write_tiny(module, tmp_path / name, precision, **metadata)

    return write
