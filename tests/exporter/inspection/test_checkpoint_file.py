"""Checkpoints, described without loading their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hsm_export.errors import BadInputError
from hsm_export.inspection import CheckpointResult, inspect
from hsm_models import (
    HSMConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)
from hsm_models.checkpoint import build_model, fingerprint, save_checkpoint
from hsm_models.errors import CheckpointError

CONFIG = ModelConfig(
    task="language_model",
    width=16,
    vocab_size=11,
    layers=(
        LayerConfig(HSMConfig(), MLPConfig(24)),
        LayerConfig(HSMConfig(mixing="matrix")),
        LayerConfig(SwitchHeadConfig(heads=2, experts=3, active=2), MoEConfig(4, 2, 8)),
        LayerConfig(TaylorShiftConfig(heads=4, causal=True)),
    ),
)


@pytest.mark.parametrize("name", ["m.safetensors", "folder"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sizes_and_mixers(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_model(CONFIG).to(dtype)
    save_checkpoint(model, tmp_path / name, {"note": "hand-made"})
    result = inspect(tmp_path / name)
    assert isinstance(result, CheckpointResult)
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    assert result.parameters == count
    assert result.weight_bytes == {str(dtype).removeprefix("torch."): count * dtype.itemsize}
    assert result.fingerprint == fingerprint(tmp_path / name) and result.metadata == {"note": "hand-made"}
    rows = {row.name: row for row in result.mixers}
    assert [row.kind for row in result.mixers] == ["hsm", "mlp", "hsm", "switch_head", "moe", "taylor_shift"]
    assert rows["layers.1.mixer"].details["shifts"] == [2]
    assert rows["layers.2.mixer"].details["head_dim"] == 8 and rows["layers.3.mixer"].details["head_dim"] == 4
    for path, row in rows.items():
        module = model.get_submodule(path)
        assert row.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_authors_files_are_sent_to_the_importer(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "m.pth")
    with pytest.raises(BadInputError, match="PyTorch pickle") as caught:
        inspect(tmp_path / "m.pth")
    assert caught.value.hint is not None and "hsm-export import" in caught.value.hint


def test_damaged_and_missing_checkpoints_are_refused(tmp_path: Path) -> None:
    save_checkpoint(build_model(CONFIG), tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    for name in ("m.safetensors", "empty", "nothing.safetensors"):
        with pytest.raises(CheckpointError):
            inspect(tmp_path / name)
    with pytest.raises(BadInputError, match="does not exist"):
        inspect(tmp_path / "nothing.onnx")
