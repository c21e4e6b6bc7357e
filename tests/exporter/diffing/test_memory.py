"""A diff of a 262M-parameter model needs little more memory than the largest of its runtimes alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RUNTIMES = ("ort", "ort-fused", "torch", "onnx64", "torch64")
LENGTH = 512

MAKE = """
import json, sys
import torch
from hsm_export import export
from hsm_models.checkpoint import save_checkpoint
from hsm_models import LayerConfig, MLPConfig, ModelConfig, SwitchHeadConfig
from hsm_models.language_model import LanguageModel

width, hidden, layers = json.loads(sys.argv[1])
mixer = SwitchHeadConfig(heads=4, head_dim=128, experts=4, active=2, positions="rope")
layer = LayerConfig(mixer, MLPConfig(hidden, activation="relu"))
with torch.device("meta"):
    model = LanguageModel(ModelConfig(task="language_model", width=width, vocab_size=8000, layers=(layer,) * layers))
model = model.to_empty(device="cpu")
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for parameter in model.parameters():
        spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.5
        parameter.normal_(0.0, spread, generator=generator)
    for name, buffer in model.named_buffers():
        buffer.copy_(dict(LanguageModel(model.config).named_buffers())[name])
save_checkpoint(model, "large.safetensors")
export("large.safetensors", output="large.onnx")
print(json.dumps(sum(parameter.numel() for parameter in model.parameters())))
"""

# VmHWM is the largest resident memory that this very program had, not that of whoever started it.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
"""

ALONE = (
    PEAK
    + """
import sys
import numpy as np
from hsm_export.diffing.layers.tapping import run_once
from hsm_export.runtimes import get
from hsm_export.runtimes.routing import instrument
from hsm_export.runtimes.runtime import RunContext
from hsm_export.onnx_model.model_file import open_model
from hsm_export.torch_model.torch_source import open_source

name, length = sys.argv[1], int(sys.argv[2])
file = open_model("large.onnx")
model, routed = instrument(file.model)
context = RunContext(model, file.path.parent, file.precision, open_source("large.safetensors").load, routed)
feed = {"tokens": np.random.default_rng(0).integers(0, 8000, (1, length))}
run_once(get(name), context, feed | {node.mask: node.free_mask() for node in routed})
print(peak())
"""
)

DIFF = (
    PEAK
    + """
import json, sys, time
import hsm_export
from hsm_export.diffing import DiffOptions, diff
from hsm_export.limits import resident_bytes

phases, start = [], time.monotonic()
def progress(phase):
    phases.append((round(time.monotonic() - start), round(peak() / 1e6), round(resident_bytes() / 1e6), phase))
    print(*phases[-1], file=sys.stderr, flush=True)

result = diff(
    "large.onnx", ["ort", "ort-fused", "torch"], against="large.safetensors", shapes=[(1, int(sys.argv[1]))],
    options=DiffOptions(layers=True, generate=0), progress=progress,
)
assert result.passed, result.summary
assert [item.runtime for item in result.runtimes if item.layers], result.runtimes
print(peak())
"""
)


def _ran(code: str, folder: Path, *arguments: str) -> int:
    """Run a program and return the number that it prints."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    number: int = json.loads(process.stdout.splitlines()[-1])
    print(arguments, f"{number / 1e9:.2f}e9", process.stderr[-6000:])
    return number


@pytest.mark.slow
def test_a_diff_of_a_262m_switch_head(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    # LARGE=[width, hidden, layers] tries the test itself on less.
    size = json.loads(os.environ.get("LARGE", "[2048, 8640, 5]"))
    parameters = _ran(MAKE, tmp_path, json.dumps(size))
    weights = 4 * parameters
    assert "LARGE" in os.environ or 255e6 < parameters < 270e6
    alone = {name: _ran(ALONE, tmp_path, name, str(LENGTH)) for name in RUNTIMES}
    together = _ran(DIFF, tmp_path, str(LENGTH))
    for name, peak in {"weights": weights, **alone, "diff --layers": together}.items():
        record_property(f"{name}, GB", f"{peak / 1e9:.2f}")
    assert together <= max(alone.values()) + weights, (together, alone)
