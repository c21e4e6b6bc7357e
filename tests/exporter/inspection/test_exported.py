"""Files that the exporter wrote, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.shared import made_once

import hsm_export
from hsm_export import cli
from hsm_export.inspection import OnnxResult, inspect
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

CONFIG = ModelConfig(
    task="language_model",
    width=16,
    vocab_size=11,
    layers=(
        LayerConfig(HSMConfig(shifts=(1, 2)), MLPConfig(24)),
        LayerConfig(SwitchHeadConfig(heads=2, experts=3, active=2), MoEConfig(4, 2, 8)),
        LayerConfig(TaylorShiftConfig(heads=4, causal=True)),
        LayerConfig(SoftmaxConfig(heads=2)),
    ),
)


@pytest.fixture(scope="module")
def exported() -> Path:
    """An exported model with every kind of mixer."""

    def make(folder: Path) -> None:
        folder.mkdir()
        save_checkpoint(build_model(CONFIG), folder / "m.safetensors")
        hsm_export.export(folder / "m.safetensors", output=folder / "m.onnx")

    return made_once("inspected", make) / "m.onnx"


def test_everything_in_an_exported_file_is_counted(exported: Path) -> None:
    result = inspect(exported)
    assert isinstance(result, OnnxResult)
    assert result.uncounted == {}
    assert result.parameters == sum(tensor.numel() for tensor in build_model(CONFIG).state_dict().values())
    assert [row.name for row in result.mixers] == [
        "layers.0.mixer",
        "layers.0.feed_forward",
        "layers.1.mixer",
        "layers.1.feed_forward",
        "layers.2.mixer",
        "layers.3.mixer",
    ]
    assert [row.kind for row in result.mixers] == ["hsm", "mlp", "switch_head", "moe", "taylor_shift", "softmax"]
    checkpoint = hsm_export.inspect(exported.with_suffix(".safetensors"))
    assert {row.name: row.parameters for row in result.mixers} == {
        row.name: row.parameters
        for row in checkpoint.mixers  # type: ignore[attr-defined]
    }
    assert {body.name for body in result.functions} == {
        name.removeprefix("hsm::") for name in result.operators if name.startswith("hsm::")
    }
    assert result.metadata["task"] == "language_model" and result.precision == "fp32"


def test_costs_of_an_exported_file_grow_as_its_mixers_do(exported: Path) -> None:
    result = inspect(exported)
    assert isinstance(result, OnnxResult)
    linear = {"hsm", "mlp", "moe", "taylor_shift"}
    for row in result.mixers:
        first, *_, last = (cost.flops_per_token for cost in row.costs)
        if row.kind in linear:
            assert last == pytest.approx(first, rel=0.05), row.name
        else:
            assert last > 10 * first, row.name
    dense = 2 * (2 * 16 * 24) + 5 * 24 + 24 + 16
    assert result.mixers[1].costs[2].flops_per_token == dense


def test_the_command_through_a_process(exported: Path) -> None:
    command = [sys.executable, "-m", "hsm_export", "inspect", str(exported), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data["kind"] == "onnx" and data["operators"]["hsm::ShiftMix"] == 1
    assert data["costs"][1]["flops_per_token"] == data["costs"][1]["flops"] / 128


def test_tables(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", str(exported)]) == 0
    table = capsys.readouterr().out
    for text in ("layers.1.mixer", "switch_head", "hsm::CausalTaylorShift", "batch, length", "flops/token"):
        assert text in table
    assert cli.run(["inspect", str(exported.with_suffix(".safetensors"))]) == 0
    assert "taylor_shift" in capsys.readouterr().out


def test_refusals_end_with_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not an ONNX file")
    (tmp_path / "m.engine").write_bytes(b"an engine")
    for name in ("m.onnx", "m.engine", "missing.onnx", "missing.safetensors", "zoo:no-such-model"):
        file = name if name.startswith("zoo:") else str(tmp_path / name)
        assert cli.run(["inspect", file]) == 4
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("error: ")
