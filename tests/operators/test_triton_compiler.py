"""Triton's compiler takes every kernel of the backward passes, without a GPU: machine code, tensor cores, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_operators.fused_gradient import has_triton

PROGRAM = Path(__file__).with_name("triton_compiler.py")
LEAST_SHARED = 99 * 1024  # what a block may have on sm_86, 89 and 120, the least of those with bfloat16
WITHOUT_PRODUCTS = {"backward"}  # of shifts


@pytest.mark.slow  # half a minute for each architecture
@pytest.mark.skipif(not has_triton(), reason="Triton is not installed: pip install 'hsm-export[triton]'")
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles(capability: int, tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(capability)],
        env=variables | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["kernel"] for row in kernels} >= {
        "statistics", "of_queries", "of_keys", "accumulate", "through", "of_choices", "of_weights", "backward",
    }  # fmt: skip
    for row in kernels:
        assert row["cubin"] > 0 and row["shared"] <= LEAST_SHARED, row
        assert (row["products"] > 0) == (row["kernel"] not in WITHOUT_PRODUCTS), row
