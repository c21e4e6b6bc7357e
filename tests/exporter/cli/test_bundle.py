"""`hsm-export bundle` as a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.exporter.building.hand_made import token_model


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hsm_export", "bundle", *arguments], capture_output=True, text=True)


def test_write_and_verify(tmp_path: Path) -> None:
    written = run(token_model(tmp_path / "m.onnx"), "--json")
    assert written.returncode == 0, written.stderr
    result = json.loads(written.stdout)
    assert result["bundle"] == str(tmp_path / "m.hsm")
    assert "writing the bundle" in written.stderr
    verified = run("--verify", tmp_path / "m.hsm", "--self-test")
    assert verified.returncode == 0, verified.stderr
    assert "whole and consistent" in verified.stdout
    assert "model.logits off by" in verified.stdout
    (tmp_path / "m.hsm" / "libevil.so").write_bytes(b"")
    refused = run("--verify", tmp_path / "m.hsm")
    assert refused.returncode == 4
    assert "libevil.so, which its manifest does not list" in refused.stderr


def test_triton(tmp_path: Path) -> None:
    done = run(
        token_model(tmp_path / "m.onnx"), "--format", "triton", "-o", tmp_path / "repository", "--max-batch", "3"
    )
    assert done.returncode == 0, done.stderr
    assert "tritonserver" in done.stdout
    assert "max_batch_size: 3" in (tmp_path / "repository" / "m" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to bundle"),
        (("--self-test",), "--self-test is for --verify"),
        (("m.onnx", "--verify", "m.hsm"), "MODEL cannot be given with --verify"),
        (("m.onnx", "--format", "triton"), "needs -o"),
        (("m.onnx", "--format", "triton", "-o", "r", "--against", "zoo:hsm-lm"), "--against cannot be given"),
        (("m.onnx", "--max-batch", "2"), "--max-batch cannot be given with a bundle"),
    ],
)
def test_usage(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
