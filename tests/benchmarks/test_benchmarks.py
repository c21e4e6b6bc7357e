"""Every benchmark runs on tiny sizes; what it measures then says nothing, so no time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_export.native import find_library

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "benchmarks" / "quick"
SCRIPTS = [
    "taylor_shift_vs_attention",
    "taylor_shift_vs_sgemm",
    "taylor_shift_memory",
    "shift_mix_vs_memcpy",
    "expert_matmul_vs_sgemm",
    "expert_mlp",
    "attention",
    "decayed_linear_attention",
    "causal_taylor_shift",
    "decode_bytes",
    "torch_kernels",
    pytest.param("decode_context", marks=pytest.mark.slow),
    pytest.param("whole_models", marks=pytest.mark.slow),
    pytest.param("taylor_auto_choice", marks=pytest.mark.slow),
    pytest.param("runtime_overhead", marks=pytest.mark.slow),
    pytest.param("cold_start", marks=pytest.mark.slow),
    pytest.param("real_sizes", marks=pytest.mark.slow),
    pytest.param("mixer_kernels", marks=pytest.mark.slow),  # it compiles them
]


@pytest.mark.skipif(find_library("libhsm_onnxruntime.so") is None, reason="the native libraries were not built")
@pytest.mark.parametrize("script", SCRIPTS)
def test_script_prints_its_claims_and_writes_them(script: str) -> None:
    written = RESULTS / f"{script}-1.json"
    written.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HSM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "claim, measured, bound, verdict"
    record = json.loads(written.read_text())
    assert record["quick"] is True
    assert len(record["claims"]) == len(lines) - 1 > 0
    assert record["rows"]
