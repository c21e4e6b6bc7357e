"""Exported models of every mixer family build in every precision, and so does a SwitchHead of the paper's size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import hsm_export
from hsm_models import (
    HSMConfig,
    ImageConfig,
    LayerConfig,
    MixerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    SoftmaxConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
    zoo,
)
from hsm_models.checkpoint import build_model, save_checkpoint

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

AMPERE_AND_LATER = ("sm80", "sm86", "sm89", "sm120", "sm121")
PRECISIONS = ("fp32", "fp16", "bf16")


def language_model(*mixers: MixerConfig, feed_forward: MLPConfig | MoEConfig | None = None) -> ModelConfig:
    layers = tuple(LayerConfig(mixer, feed_forward or MLPConfig(32)) for mixer in mixers)
    return ModelConfig("language_model", 16, layers, vocab_size=40)


def classifier(mixer: MixerConfig, **fields: object) -> ModelConfig:
    config = ModelConfig("sequence_classifier", 16, (LayerConfig(mixer, MLPConfig(32)),), vocab_size=17, classes=10)
    return dataclasses.replace(config, **fields)  # type: ignore[arg-type]


SWITCH_HEAD = SwitchHeadConfig(heads=2, head_dim=8, experts=4, active=2)
MODELS = {
    "hsm": language_model(HSMConfig(), HSMConfig(shifts=(1, 3)), HSMConfig(mixing="matrix")),
    "hsm-gated": language_model(
        HSMConfig(mixing="gated"), HSMConfig(mixing="gated2", padding="learned"), HSMConfig(mixing="scalar")
    ),
    "hsm-fusion": language_model(HSMConfig(mixing="fusion", hidden=24), SoftmaxConfig(heads=2)),
    "taylor-shift-causal": language_model(TaylorShiftConfig(heads=2, causal=True), TaylorShiftConfig(2, causal=True)),
    "taylor-shift": classifier(TaylorShiftConfig(heads=2), input="pixels", positions="learned", max_length=64),
    "taylor-shift-masked": classifier(TaylorShiftConfig(heads=2, output_norm=True), masked=True, pooling="mean"),
    "taylor-shift-image": classifier(
        TaylorShiftConfig(heads=2), input="image", vocab_size=0, image=ImageConfig(16, 4), positions="learned"
    ),
    "switch-head-rope": language_model(SWITCH_HEAD, dataclasses.replace(SWITCH_HEAD, same_selection=True)),
    "switch-head-xl": language_model(dataclasses.replace(SWITCH_HEAD, positions="xl")),
    "switch-head-dense": language_model(dataclasses.replace(SWITCH_HEAD, experts=1, active=1)),
    "switch-all": language_model(SWITCH_HEAD, feed_forward=MoEConfig(4, 2, 8)),
    "softmax": language_model(SoftmaxConfig(heads=2), SoftmaxConfig(heads=2, positions="none")),
}


def exported(tmp_path: Path, config: ModelConfig, precision: str) -> Path:
    """Export a model with random weights."""
    torch.manual_seed(3)
    checkpoint = tmp_path / "checkpoint.safetensors"
    save_checkpoint(build_model(config), checkpoint)
    model = tmp_path / "model.onnx"
    hsm_export.export(str(checkpoint), output=model, precision=precision)
    return model


@pytest.mark.parametrize(
    "name",
    ["switch-head-rope", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hsm", "taylor-shift-causal"))],
)
def test_a_family_builds(tmp_path: Path, name: str) -> None:
    result = hsm_export.build(exported(tmp_path, MODELS[name], "fp32"), architectures=("sm86", "sm120"))
    assert all(profile["batch"].min == 1 for profile in result.profiles)
    assert result.outputs[0].name == "logits"
    assert result.outputs[0].dtype == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_builds_in_every_precision(tmp_path: Path, name: str, precision: str) -> None:
    result = hsm_export.build(exported(tmp_path, MODELS[name], precision), architectures=AMPERE_AND_LATER)
    assert result.precision == precision
    assert result.outputs[0].dtype == "float32"
    if "length" in result.profiles[0]:
        assert result.profiles[0]["length"].min == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", zoo.names())
def test_every_zoo_model_builds_in_every_precision(tmp_path: Path, name: str, precision: str) -> None:
    model = tmp_path / "model.onnx"
    hsm_export.export(f"zoo:{name}", output=model, precision=precision)
    result = hsm_export.build(model, architectures=AMPERE_AND_LATER)
    assert result.engine_bytes > 0
    assert result.model["source_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "precision"), [("xl", "fp32"), ("rope", "bf16")])
def test_a_switch_head_of_47_million_parameters_builds(tmp_path: Path, positions: str, precision: str) -> None:
    mixer = SwitchHeadConfig(heads=2, head_dim=76, experts=5, active=2, positions=positions)  # type: ignore[arg-type]
    layers = (LayerConfig(mixer, MLPConfig(2080, "relu")),) * 16
    config = ModelConfig("language_model", 412, layers, vocab_size=8000)
    model = exported(tmp_path, config, precision)
    result = hsm_export.build(
        model, architectures=AMPERE_AND_LATER, profiles=[{"batch": "1:1:4", "length": "1:256:256"}]
    )
    assert result.engine_bytes > 2 * 40e6
    assert result.peak_memory_bytes is None or result.peak_memory_bytes < 8e9
