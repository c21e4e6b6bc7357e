"""The process of one runtime: what it loads counts as that runtime's memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.exporter.validation.families import random_config, write_checkpoint
from tests.exporter.validation.tiny import tiny_model, write_tiny

import hsm_export
from hsm_export.native import CUSTOM_OPS, find_library

CODE = """
import json, sys
from hsm_export.benchmarking.protocol import Job
from hsm_export.benchmarking.worker import Worker
worker = Worker(Job(sys.argv[1], sys.argv[2] or None, sys.argv[3], ((1, 4),)))
answers = [worker.prepare(0), worker.turn(0), worker.memory(0)]
# Polygraphy logs to stdout.
print("answers", json.dumps([answers, "torch" in sys.modules]))
"""


def serve(model: Path, checkpoint: Path | None, runtime: str) -> tuple[list[Any], bool]:
    command = [sys.executable, "-c", CODE, str(model), str(checkpoint or ""), runtime]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("answers "))
    answers, has_torch = json.loads(line.removeprefix("answers "))
    return answers, has_torch


@pytest.mark.parametrize("runtime", ["ort", "ort-fused", "onnx-reference"])
def test_runtimes_of_the_file_do_not_load_torch(tmp_path: Path, runtime: str) -> None:
    if runtime == "ort-fused" and find_library(CUSTOM_OPS) is None:
        pytest.skip(f"this installation has no {CUSTOM_OPS}")
    model = write_tiny(tiny_model(), tmp_path / "tiny.onnx")
    # The checkpoint is named, as it is for every runtime of a benchmark, and left alone.
    answers, has_torch = serve(model, tmp_path / "missing.safetensors", runtime)
    assert not has_torch
    assert answers[1] > 0
    assert answers[2]["peak"] >= answers[2]["extra"] >= 0


def test_torch_runs_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(random_config("hsm", random.Random(0)), tmp_path / "c.safetensors", 0)
    hsm_export.export(checkpoint, output=tmp_path / "m.onnx")
    _, has_torch = serve(tmp_path / "m.onnx", checkpoint, "torch")
    assert has_torch
