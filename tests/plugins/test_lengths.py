"""Classifiers that take `lengths`: sequences of any lengths in one batch, each as it is alone, in Python and in C++."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.plugins.test_hsm_run import UNAVAILABLE, hsm_run
from tests.shared import made_once

import hsm_export
import onnxruntime
from hsm_export.bundling import bundle
from hsm_export.errors import UsageError

LENGTHS = np.array([64, 1, 17, 40])


@pytest.fixture(scope="module")
def digits() -> Path:
    """The zoo's digits, exported with lengths."""
    return made_once(
        "zoo-digits-lengths.onnx",
        lambda path: hsm_export.export("zoo:taylor-shift-digits", output=path, lengths=True),
    )


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """Sequences of unequal lengths, and what must not count behind them."""
    pixels = np.random.default_rng(0).integers(0, 17, (len(LENGTHS), 64))
    return {"pixels": pixels, "lengths": LENGTHS}


def test_each_sequence_is_what_it_is_alone(digits: Path, batch: dict[str, np.ndarray]) -> None:
    session = onnxruntime.InferenceSession(str(digits), providers=["CPUExecutionProvider"])
    (together,) = session.run(None, batch)
    for row, length in enumerate(LENGTHS):
        alone = {"pixels": batch["pixels"][row : row + 1, :length], "lengths": LENGTHS[row : row + 1]}
        np.testing.assert_allclose(together[row], session.run(None, alone)[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
def test_cpp_classifies_the_same(digits: Path, batch: dict[str, np.ndarray], tmp_path: Path) -> None:
    bundle(digits, tmp_path / "digits.hsm", against="zoo:taylor-shift-digits")
    assert hsm_run(tmp_path / "digits.hsm", "--self-test").returncode == 0
    save_file(batch, tmp_path / "in.safetensors")
    files = ("--inputs", tmp_path / "in.safetensors", "--outputs", tmp_path / "out.safetensors")
    done = hsm_run(tmp_path / "digits.hsm", *files)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(str(digits), providers=["CPUExecutionProvider"])
    found = load_file(tmp_path / "out.safetensors")["logits"]
    np.testing.assert_allclose(found, session.run(None, batch)[0], rtol=1e-3, atol=1e-3)
    save_file({**batch, "lengths": np.array([64, 0, 65, 1])}, tmp_path / "in.safetensors")
    done = hsm_run(tmp_path / "digits.hsm", *files)
    assert done.returncode != 0 and "lengths" in done.stderr


def test_other_models_take_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no classifier of sequences"):
        hsm_export.export("zoo:hsm-lm", output=tmp_path / "lm.onnx", lengths=True)
    with pytest.raises(UsageError, match="takes lengths anyway"):
        hsm_export.export("zoo:hsm-lm", output=tmp_path / "lm.onnx", lengths=True, decode=True)
