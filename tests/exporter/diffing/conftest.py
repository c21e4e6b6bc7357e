"""Small language models of ours, as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.exporter.validation.families import write_checkpoint
from tests.shared import made_once

from hsm_export import export
from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, SoftmaxConfig


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """A hybrid of shifts 1 and 4 and attention over 256 bytes."""
    layers = (LayerConfig(HSMConfig(shifts=(1, 4)), MLPConfig(32)), LayerConfig(SoftmaxConfig(2), None))
    config = ModelConfig(task="language_model", width=16, layers=layers, vocab_size=256)
    return made_once("diffed.safetensors", lambda path: write_checkpoint(config, path, 0))


@pytest.fixture(scope="session")
def whole(checkpoint: Path) -> Path:
    """The file that reads whole sequences."""
    return made_once("diffed.onnx", lambda path: export(checkpoint, output=path))


@pytest.fixture(scope="session")
def decoding(checkpoint: Path) -> Path:
    """The file that reads them in pieces."""
    return made_once("diffed-decode.onnx", lambda path: export(checkpoint, output=path, decode=True))
