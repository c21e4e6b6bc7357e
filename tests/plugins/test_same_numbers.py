"""The numbers of a bundle are the same in C, in C++ and in Python, for every model of the zoo in every precision.

The programs run in the very ONNX Runtime of this Python, with one thread and the same kernels, so their numbers must be
Python's bit for bit: nothing is allowed for. How far those may be from the right ones is what the self-test says.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests.plugins.native import BUILD, built

import hsm_export
import onnxruntime
from hsm_export.bundling import Bundle, bundle, open_bundle
from hsm_export.decoding.session import DecodeSession
from hsm_export.native import custom_ops_path
from hsm_export.onnx_model.bfloat16 import widen_bfloat16
from hsm_export.runtimes import get
from hsm_export.runtimes.session import cpu_session
from hsm_models import zoo
from hsm_models.checkpoint import read_config

Array = NDArray[Any]
PRECISIONS = ("fp32", "fp16", "bf16")
LANGUAGES = ("c", "cpp")
# The runtimes' names in C++ and in Python.
BACKENDS = {"onnxruntime-fused": "ort-fused", "onnxruntime-bodies": "ort"}
ROWS, LENGTH, STEPS = 2, 13, 6
# One of each precision and kind, small enough for every day; the whole matrix is slow.
SOME = {("taylor-shift-digits", "bf16"), ("hsm-lm", "bf16")}

FUSED = get("ort-fused").available()
pytestmark = pytest.mark.skipif(FUSED is not None, reason=f"the fused kernels do not run here: {FUSED}")


def matrix() -> list[Any]:
    pairs = [(name, precision) for name in zoo.names() for precision in PRECISIONS]
    return [pytest.param(*pair, marks=() if pair in SOME else pytest.mark.slow, id="-".join(pair)) for pair in pairs]


def make_bundle(folder: Path, name: str, precision: str) -> Bundle:
    """Bundle a model of the zoo, with its decoding where it generates text."""
    model, decode = folder / "model.onnx", None
    hsm_export.export(f"zoo:{name}", output=model, precision=precision)
    if read_config(zoo.path(name)).task == "language_model":
        decode = folder / "decode.onnx"
        hsm_export.export(f"zoo:{name}", output=decode, precision=precision, decode=True)
    return open_bundle(bundle(model, folder / "zoo.hsm", decode=decode, against=f"zoo:{name}").bundle)


def run(*command: str | Path, data: bytes = b"") -> bytes:
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(runtime)}
    done = subprocess.run(list(map(str, command)), input=data, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def native_numbers(language: str, opened: Bundle, backend: str, part: str, ids: list[Array], *sizes: int) -> Array:
    """Return what the program in that language prints."""
    program = built(f"runtime/hsm_numbers_{language}")
    data = b"".join(array.tobytes() for array in ids)
    printed = run(program, opened.path, backend, custom_ops_path(), part, *map(str, sizes), data=data)
    return np.frombuffer(printed, np.float32)


def python_model(opened: Bundle, backend: str, tokens: Array) -> Array:
    """Return the logits of one pass in ONNX Runtime from Python, which rewrites bfloat16 graphs itself."""
    assert opened.model is not None
    kernels = custom_ops_path() if backend == "onnxruntime-fused" else None
    session = cpu_session(widen_bfloat16(onnx.load(opened.model)), opened.path, kernels=kernels)
    logits: Array = session.run(["logits"], {session.get_inputs()[0].name: tokens})[0]
    return logits


def python_decode(opened: Bundle, backend: str, prompt: Array, steps: Array) -> Array:
    """Return each row's logits after the prompt and after every step."""
    assert opened.decode is not None
    session = DecodeSession(opened.decode, BACKENDS[backend], batch=ROWS, capacity=LENGTH + STEPS)
    return np.stack([session.last_logits(prompt), *(session.last_logits(tokens[:, None]) for tokens in steps)])


@pytest.mark.parametrize(("name", "precision"), matrix())
def test_same_numbers(tmp_path: Path, name: str, precision: str) -> None:
    opened = make_bundle(tmp_path, name, precision)
    rng = np.random.default_rng(7)
    prompt = rng.integers(0, 16, (ROWS, LENGTH)).astype(np.int64)
    steps = rng.integers(0, 16, (STEPS, ROWS)).astype(np.int64)
    for backend in BACKENDS:
        expected = python_model(opened, backend, prompt)
        assert np.isfinite(expected).all() and expected.dtype == np.float32
        for language in LANGUAGES:
            numbers = native_numbers(language, opened, backend, "model", [prompt], ROWS, LENGTH)
            assert numbers.tobytes() == expected.tobytes(), (language, backend)
        if opened.decode is None:
            continue
        expected = python_decode(opened, backend, prompt, steps)
        assert np.isfinite(expected).all()
        for language in LANGUAGES:
            numbers = native_numbers(language, opened, backend, "decode", [prompt, steps], ROWS, LENGTH, STEPS)
            assert numbers.tobytes() == expected.tobytes(), (language, backend)
    # And they are the right ones, within the bundle's tolerances.
    run(BUILD / "runtime" / "run" / "hsm-run", opened.path, "--self-test", "--backend", "onnxruntime-bodies")
