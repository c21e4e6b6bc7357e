"""What the decoding tests share: small checkpoints, decode files made once, and reading rows in random pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.exporter.exporting.models import MIXERS, language_model
from tests.plugins.native import BUILD
from tests.shared import made_once

import hsm_export
from hsm_export.decoding.session import DecodeSession
from hsm_export.native import EMULATED_OPS, find_library
from hsm_models import HSMConfig, MixerConfig, SoftmaxConfig, SwitchHeadConfig, save_checkpoint

Array = NDArray[Any]

needs_library = pytest.mark.skipif(
    find_library("libhsm_onnxruntime.so") is None, reason="the native libraries were not built"
)
EMULATOR = BUILD / "tests" / "emulated" / EMULATED_OPS
needs_emulator = pytest.mark.skipif(not EMULATOR.is_file(), reason=f"there is no {EMULATOR.name}; see `make cpp-test`")
ORT_RUNTIMES = ("ort", pytest.param("ort-fused", marks=needs_library))
RUNTIMES = ("torch", *ORT_RUNTIMES)
CAPACITY = 64
MODELS: dict[str, tuple[MixerConfig, ...]] = {
    **MIXERS,
    "no-sums": (
        HSMConfig(mixing="gated2", shifts=(2, 5)),
        HSMConfig(shifts=(3,), padding="learned"),
        SoftmaxConfig(),
        SoftmaxConfig(window=6),
        SwitchHeadConfig(positions="xl"),
    ),
}


def checkpoint(name: str) -> str:
    """Return a checkpoint: "zoo:NAME", or a random model of the mixers `MODELS[name]`."""
    if name.startswith("zoo:"):
        return name
    return str(made_once(f"{name}.safetensors", lambda path: save_checkpoint(language_model(*MODELS[name]), path)))


def decode_file(name: str, precision: str = "fp32", **options: Any) -> Path:
    """Export a model of `checkpoint` for decoding, once for all tests."""
    label = "-".join([name.replace(":", "-"), precision, *(f"{key}{value}" for key, value in options.items())])
    return made_once(
        f"{label}.onnx",
        lambda path: hsm_export.export(checkpoint(name), output=path, precision=precision, decode=True, **options),
    )


def open_session(name: str, runtime: str, **options: Any) -> DecodeSession:
    """Open a model in a runtime; `capacity` goes to the session, `rollback` and `last_logits` to the export."""
    capacity = options.pop("capacity", CAPACITY)
    batch = options.pop("batch", 1)
    if runtime.startswith("torch"):
        options.pop("last_logits", None)
        return DecodeSession(checkpoint(name), runtime, batch=batch, capacity=capacity, **options)
    return DecodeSession(decode_file(name, **options), runtime, batch=batch, capacity=capacity)


def random_tokens(rng: np.random.Generator, session: DecodeSession, length: int) -> Array:
    """Return (B,length) token ids."""
    return rng.integers(0, session.vocab_size, (session.batch, length))


def read_in_pieces(
    session: DecodeSession, tokens: Array, lengths: Array, rng: np.random.Generator, sizes: tuple[int, ...] = (1, 2, 8)
) -> list[Array]:
    """Read the first `lengths` (B,) tokens of each row in random pieces, padded with rubbish; return its logits.

    A call takes at most one of `sizes` tokens, and of some rows fewer or none.
    """
    done = np.zeros_like(lengths)
    rows: list[list[Array]] = [[] for _ in lengths]
    while (done < lengths).any():
        take = np.minimum(rng.integers(0, int(rng.choice(sizes)) + 1, len(lengths)), lengths - done)
        if not take.any():
            continue
        piece = rng.integers(0, session.vocab_size, (len(lengths), int(take.max())))
        for row, (start, count) in enumerate(zip(done, take, strict=True)):
            piece[row, :count] = tokens[row, start : start + count]
        logits = session.step(piece, take)
        for row, count in enumerate(take):
            rows[row].append(logits[row, :count])
        done = done + take
    return [np.concatenate(row) for row in rows]
