"""A decoding step of HSM touches the same few bytes whatever the shift, counted by guarding all others."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.exporter.decoding.harness import needs_library, open_session

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "guarded_ring.py"


@needs_library
@pytest.mark.parametrize("shifts", ["1", "4096", pytest.param("65536", marks=pytest.mark.slow), "1,16"])
def test_a_step_touches_the_rows_that_it_needs_and_no_other(shifts: str) -> None:
    command = [sys.executable, str(SCRIPT), shifts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    groups = shifts.count(",") + 1
    # One row is read and replaced; with several groups each reads a row of its own.
    assert f'"touched_bytes": {groups * mmap.PAGESIZE}' in done.stdout


@needs_library
def test_the_guard_sees_a_touch() -> None:
    assert subprocess.run([sys.executable, str(SCRIPT), "16", "--shut"], capture_output=True).returncode < 0


@pytest.mark.parametrize("name", ["zoo:hsm-lm", "hsm-vector"])
def test_a_step_changes_one_row_of_each_ring(name: str) -> None:
    session = open_session(name, "torch", batch=2)
    tokens = np.random.default_rng(0).integers(0, session.vocab_size, (2, 150))
    session.step(tokens[:, :149])
    before = session.snapshot().state
    session.step(tokens[:, 149:])
    for tensor in session.spec.tensors:
        changed = (before[tensor.past] != session.snapshot().state[tensor.past]).any(axis=2)
        rows = before[tensor.past].shape[1]
        expected = np.zeros((2, rows), bool)
        expected[:, 149 % rows] = True
        np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Sum of R D over the layers, R the largest shift.
        ("zoo:hsm-lm", (4 + 8 + 32 + 16 + 64) * 128 * 4),
        # 2 H f for each token and layer, H = 2 heads of width f = 32; the baseline has H = 4.
        ("zoo:switch-head-lm", 2 * 2 * 32 * 4 * 5 * 64),
        ("zoo:baseline-softmax", 2 * 4 * 32 * 4 * 5 * 64),
        # F (d + 1) for each of 4 heads in 4 layers, d = 32 and F = 1 + d + d (d + 1) / 2, over one ring of 4 rows.
        ("zoo:taylor-shift-lm", (561 * 33 * 4 * 4 + 4 * 128) * 4),
    ],
)
def test_the_state_takes_exactly_the_bytes_of_its_formula(name: str, expected: int) -> None:
    session = open_session(name, "torch", capacity=64)
    assert session.state_bytes == session.spec.bytes_per_sequence(64) == expected
    session.reset(3)
    assert session.state_bytes == 3 * expected
