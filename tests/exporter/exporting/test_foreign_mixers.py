"""A model with a mixer of someone else's: exported, decoded, checked, and found by the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exporter.exporting.models import randomised
from tests.models.acme_mean import MeanConfig
from tests.models.test_parts import installed

import hsm_export
from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, build_model, save_checkpoint

CONFIG = ModelConfig(
    task="language_model",
    width=16,
    vocab_size=11,
    layers=(LayerConfig(MeanConfig(groups=4), MLPConfig(24)), LayerConfig(HSMConfig()), LayerConfig(MeanConfig())),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights."""
    path = tmp_path_factory.mktemp("foreign") / "m.safetensors"
    torch.manual_seed(0)
    save_checkpoint(randomised(build_model(CONFIG)), path)
    return path


@pytest.mark.parametrize(
    ("decode", "precision"),
    [
        (False, "fp32"),
        (True, "bf16"),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in ((False, "fp16"), (False, "bf16"), (True, "fp32"), (True, "fp16"))
        ),
    ],
)
def test_its_files_agree_with_pytorch(checkpoint: Path, decode: bool, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    hsm_export.export(checkpoint, output=file, decode=decode, precision=precision)
    result = hsm_export.validate(file, against=checkpoint, runtimes=["onnx-reference", "ort", "ort-fused"])
    assert result.passed, result.summary
    rows = {row.name: (row.kind, row.details) for row in hsm_export.inspect(file).mixers}  # type: ignore[attr-defined]
    assert rows["layers.0.mixer"] == ("acme_mean", {"groups": 4, "bias": True})
    assert rows["layers.2.mixer"] == ("acme_mean", {"groups": 16, "bias": True})


def test_the_command_line_finds_it(checkpoint: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path / "site", "acme_mean = tests.models.acme_mean")

    def run(*arguments: str) -> Any:
        command = [sys.executable, "-m", "hsm_export", *arguments, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    file = str(tmp_path / "m.onnx")
    run("export", str(checkpoint), "-o", file, "--decode")
    assert run("validate", file, "--against", str(checkpoint), "--runtimes", "ort")["passed"]
    rows = run("inspect", str(checkpoint))["mixers"]
    assert [row["kind"] for row in rows] == ["acme_mean", "mlp", "hsm", "acme_mean"]


def test_a_file_says_what_its_parts_are_where_the_mixer_is_unknown(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    hsm_export.export(checkpoint, output=file)
    code = (
        "import sys, hsm_export\n"
        f"print([row.kind for row in hsm_export.inspect({str(file)!r}).mixers], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['acme_mean', 'mlp', 'hsm', 'acme_mean'] False"
