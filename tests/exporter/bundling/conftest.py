"""Bundles that the tests of this folder share: one of a hand-made model, one of a language model with its decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.exporter.building.hand_made import token_model
from tests.shared import made_once

import hsm_export
from hsm_export.bundling import bundle
from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, SwitchHeadConfig
from hsm_models.checkpoint import build_model, save_checkpoint


@dataclass(frozen=True)
class Exported:
    """A language model: its checkpoint, the file that reads whole sequences, and the one that decodes."""

    checkpoint: Path
    model: Path
    decode: Path


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle, without any PyTorch in its making; tests copy it."""
    folder = tmp_path_factory.mktemp("good")
    bundle(token_model(folder / "tokens.onnx"), folder / "good.hsm")
    return folder / "good.hsm"


@pytest.fixture(scope="session")
def exported() -> Exported:
    """A language model of 256 token ids, with rings, experts, keys and values."""
    folder = made_once("bundling", _export)
    return Exported(folder / "source.safetensors", folder / "lm.onnx", folder / "lm-decode.onnx")


def _export(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(6)
    switch = SwitchHeadConfig(heads=2, head_dim=8, experts=4, active=2)
    layers = tuple(LayerConfig(mixer, MLPConfig(32)) for mixer in (HSMConfig(shifts=(1, 3)), switch))
    save_checkpoint(
        build_model(ModelConfig("language_model", 16, layers, vocab_size=256)), folder / "source.safetensors"
    )
    hsm_export.export(folder / "source.safetensors", output=folder / "lm.onnx")
    hsm_export.export(folder / "source.safetensors", output=folder / "lm-decode.onnx", decode=True, capacity=32)


@pytest.fixture(scope="session")
def language_bundle(exported: Exported) -> Path:
    """The language model as a bundle."""
    return made_once(
        "lm.hsm", lambda path: bundle(exported.model, path, decode=exported.decode, against=exported.checkpoint)
    )
