"""Loading and unloading the library with its sessions again and again does not eat memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.exporter.runtimes.fused import needs_library
from tests.operators.harness import ANY_ATTRIBUTES, one_node_model

import hsm_export

pytestmark = needs_library

# Runs in a process of its own, so that nobody else keeps the library loaded. The first rounds fill the allocators'
# caches; what is measured is the growth after them.
CODE = """
import gc, sys
import numpy as np, onnxruntime

library, model, rounds = sys.argv[1], open(sys.argv[2], "rb").read(), int(sys.argv[3])
x = {name: np.ones(shape, kind) for name, shape, kind in (
    ("q", (1, 65, 2, 16), "f"), ("k", (1, 65, 2, 16), "f"), ("v", (1, 65, 2, 16), "f"), ("temperature", (2,), "f"))}

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

def once():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(None, x)

for _ in range(20):
    once()
gc.collect()
before = resident()
for _ in range(rounds):
    once()
gc.collect()
print(resident() - before)
"""


@pytest.mark.parametrize("rounds", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_memory_does_not_grow(rounds: int, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(one_node_model("TaylorShift", ANY_ATTRIBUTES["TaylorShift"]).SerializeToString())
    command = [sys.executable, "-c", CODE, str(hsm_export.custom_ops_path()), str(model), str(rounds)]
    growth = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # kB; ONNX Runtime alone grows by some hundred in 1000 rounds.
    assert growth < 1024 + 2 * rounds
