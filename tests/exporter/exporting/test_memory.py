"""A 262M-parameter SwitchHead is exported in minutes, with less memory than four times its weights."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

CODE = """
import torch
from hsm_models.checkpoint import save_checkpoint
from hsm_models import LayerConfig, MLPConfig, ModelConfig, SwitchHeadConfig
from hsm_models.language_model import LanguageModel

mixer = SwitchHeadConfig(heads=4, head_dim=112, experts=4, active=2, positions="xl")
layer = LayerConfig(mixer, MLPConfig(4188, activation="relu"))
with torch.device("meta"):
    model = LanguageModel(ModelConfig(task="language_model", width=1024, vocab_size=8000, layers=(layer,) * 18))
model = model.to_empty(device="cpu")
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for parameter in model.parameters():
        spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.5
        parameter.normal_(0.0, spread, generator=generator)
save_checkpoint(model, {path!r})
print(sum(parameter.numel() for parameter in model.parameters()))
"""


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(status.parent.name) == pid:
            total += int(fields[21]) * 4096
        elif int(fields[1]) == pid:
            total += resident_bytes(int(status.parent.name))
    return total


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_262m_switch_head(precision: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "large.safetensors"
    made = subprocess.run(
        [sys.executable, "-c", CODE.format(path=str(checkpoint))], check=True, capture_output=True, text=True
    )
    parameters = int(made.stdout)
    assert 262e6 < parameters < 263e6
    command = [sys.executable, "-m", "hsm_export", "export", checkpoint, "-o", tmp_path / "m.onnx"]
    process = subprocess.Popen([*command, "--precision", precision], stderr=subprocess.PIPE, text=True)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, resident_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, stderr = process.communicate()
    done.set()
    watcher.join()
    assert process.returncode == 0, stderr
    assert (tmp_path / "m.onnx.data").stat().st_size > parameters * (4 if precision == "fp32" else 2)
    assert peak < 4 * 4 * parameters, f"peak {peak / 1e9:.2f} GB"
