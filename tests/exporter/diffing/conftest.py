"""Small language models of ours, as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.exporter.validation.families import write_checkpoint

from hsm_export import export
from hsm_models.config import HSMConfig, LayerConfig, MLPConfig, ModelConfig, SoftmaxConfig


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hybrid of shifts 1 and 4 and attention over 256 bytes."""
    layers = (LayerConfig(HSMConfig(shifts=(1, 4)), MLPConfig(32)), LayerConfig(SoftmaxConfig(2), None))
    config = ModelConfig(task="language_model", width=16, layers=layers, vocab_size=256)
    return write_checkpoint(config, tmp_path_factory.mktemp("small") / "hybrid.safetensors", 0)


@pytest.fixture(scope="session")
def whole(checkpoint: Path) -> Path:
    """The file that reads whole sequences."""
    path = checkpoint.with_name("hybrid.onnx")
    export(checkpoint, output=path)
    return path


@pytest.fixture(scope="session")
def decoding(checkpoint: Path) -> Path:
    """The file that reads them in pieces."""
    path = checkpoint.with_name("hybrid-decode.onnx")
    export(checkpoint, output=path, decode=True)
    return path
