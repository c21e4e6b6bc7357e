"""Models that exist as configurations only: the papers' tables, and the same counts as of the exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hsm_export
from hsm_export.errors import UsageError
from hsm_export.inspection import ConfigResult, OnnxResult, inspect
from hsm_models import (
    HSMConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    SoftmaxConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)
from hsm_models.checkpoint import build_model, save_checkpoint
from hsm_models.errors import ConfigError


def switch_head(
    width: int, layers: int, heads: int, experts: int, active: int, head_dim: int, hidden: int = 0, **other: Any
) -> ModelConfig:
    network = MLPConfig(hidden, activation="relu") if hidden else MoEConfig(other.pop("feed_forward"), 4, 128)
    vocabulary = other.pop("vocabulary", 8000)
    mixer = SwitchHeadConfig(heads, head_dim, experts, active, **({"positions": "xl"} | other))
    return ModelConfig("language_model", width, (LayerConfig(mixer, network),) * layers, vocabulary)


def described(config: ModelConfig, folder: Path, *lengths: int, context: int = 0) -> ConfigResult:
    (folder / "model.json").write_text(config.to_json())
    result = inspect(folder / "model.json", lengths=lengths, context=context)
    assert isinstance(result, ConfigResult)
    return result


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (switch_head(412, 16, 2, 5, 2, 76, 2080), 47.25),  # WikiText-103
        (switch_head(412, 16, 2, 5, 3, 76, 2080), 47.25),  # C4
        (switch_head(1024, 18, 2, 8, 4, 132, 4147), 262.48),  # WikiText-103
        (switch_head(1024, 18, 4, 4, 2, 112, 4188), 262.37),  # C4
        (switch_head(412, 16, 2, 5, 3, 64, 2092, positions="rope"), 44.51),
        (switch_head(1024, 18, 4, 4, 2, 100, 4136, positions="rope"), 243.35),
        (switch_head(512, 12, 2, 4, 2, 112, 2088, vocabulary=204), 41.16),  # Enwik8
        (switch_head(412, 16, 2, 5, 2, 76, feed_forward=16), 46.89),  # SwitchAll
        (switch_head(1024, 18, 4, 4, 2, 112, feed_forward=32), 259.48),  # SwitchAll
    ],
    ids=lambda value: value if isinstance(value, float) else "",
)
def test_the_papers_parameters(config: ModelConfig, millions: float, tmp_path: Path) -> None:
    assert round(described(config, tmp_path, 256).parameters / 1e6, 2) == millions


def test_the_papers_operations_and_memory_of_an_attention_layer(tmp_path: Path) -> None:
    result = described(switch_head(412, 16, 2, 5, 2, 76, 2080), tmp_path, 256)
    assert result.mixers[0].costs[0].flops / 2 / 1e6 == pytest.approx(144.7, abs=0.5)  # multiply-adds, one block
    # With the block before it in memory, as trained: H (4 T f + 4 T T + 4 T f) numbers.
    result = described(switch_head(412, 16, 2, 5, 2, 76, 2080), tmp_path, 256, context=256)
    assert result.memory_floats == {256: 2 * (4 * 256 * 76 + 4 * 256 * 256 + 4 * 256 * 76)}


MIXERS: dict[str, Any] = {
    "vector": HSMConfig(),
    "matrix": HSMConfig(mixing="matrix"),
    "gated2": HSMConfig(mixing="gated2"),
    "softmax": SoftmaxConfig(heads=2),
    "switch_head": SwitchHeadConfig(heads=2, experts=3, active=2),
    "xl": SwitchHeadConfig(heads=2, experts=3, active=2, positions="xl"),
    "taylor_shift": TaylorShiftConfig(heads=4, causal=True),
}


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_configuration_counts_as_much_as_its_file(mixer: str, tmp_path: Path) -> None:
    config = ModelConfig("language_model", 64, (LayerConfig(MIXERS[mixer], MoEConfig(4, 2, 32)),) * 2, 50)
    save_checkpoint(build_model(config), tmp_path / "m.safetensors")
    hsm_export.export(tmp_path / "m.safetensors", output=tmp_path / "m.onnx")
    file = inspect(tmp_path / "m.onnx", lengths=[128])
    assert isinstance(file, OnnxResult)
    counted = described(config, tmp_path, 128)
    assert counted.parameters == file.parameters and counted.uncounted == {}
    # Norms, rotations, masks and residuals are not in it.
    assert 0.75 * file.costs[0].flops <= counted.costs[0].flops <= 1.02 * file.costs[0].flops


def test_layers_that_share_weights_count_as_often_as_they_run(tmp_path: Path) -> None:
    layer = LayerConfig(SwitchHeadConfig(heads=2), MoEConfig(4, 2, 8), norm="peri")
    once, thrice = (
        described(ModelConfig("language_model", 16, (layer,), 9, repeats=repeats), tmp_path, 32) for repeats in (1, 3)
    )
    assert once.parameters == thrice.parameters
    assert thrice.mixers[0].costs[0].flops == 3 * once.mixers[0].costs[0].flops


def test_lengths_stay_within_the_positions(tmp_path: Path) -> None:
    layer = LayerConfig(HSMConfig())
    config = ModelConfig("language_model", 8, (layer,), 5, positions="learned", max_length=32)
    assert [cost.length for cost in described(config, tmp_path, 4, 64, 32).costs] == [4, 32]
    with pytest.raises(UsageError, match="at least 1"):
        described(config, tmp_path, 0)


def test_other_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"format": 1}')
    with pytest.raises(ConfigError, match="unknown fields format"):
        inspect(tmp_path / "model.json")
