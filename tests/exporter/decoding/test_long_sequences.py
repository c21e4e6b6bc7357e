"""Two thousand tokens in any pieces give the logits of one pass, for every language model of the zoo."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from tests.exporter.decoding.harness import (
    Array,
    checkpoint,
    decode_file,
    needs_library,
    open_session,
    read_in_pieces,
)

from hsm_export import DecodeSession
from hsm_models import load_checkpoint

pytestmark = [pytest.mark.slow, needs_library]

LENGTH = 2000
SIZES = (1, 1, 2, 7, 33, 128, 500)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
EPS = {name: torch.finfo(dtype).eps for name, dtype in DTYPES.items()}
ZOO = ("hsm-lm", "hsm-hybrid-lm", "switch-head-lm", "taylor-shift-lm", "baseline-softmax")


def tokens() -> Array:
    """Return two rows of random bytes."""
    ids: Array = np.random.default_rng(11).integers(0, 256, (2, LENGTH))
    return ids


@functools.lru_cache(maxsize=4)
def one_pass(name: str, dtype: torch.dtype) -> Array:
    """Return PyTorch's logits (2,T,V) in float64 arrays."""
    with torch.inference_mode():
        logits: Array = (
            load_checkpoint(checkpoint(f"zoo:{name}")).to(dtype)(torch.from_numpy(tokens())).double().numpy()
        )
    return logits


@pytest.mark.parametrize(
    ("precision", "runtime"),
    [("fp32", "torch"), *((p, "ort") for p in DTYPES), *((p, "ort-fused") for p in DTYPES)],
)
@pytest.mark.parametrize("name", ZOO)
def test_any_pieces_of_two_thousand_tokens(name: str, precision: str, runtime: str) -> None:
    exact, native = one_pass(name, torch.float64), one_pass(name, DTYPES[precision])
    # PyTorch's own error holds the flips of routing that its precision brings; a runtime's may be others.
    allowed = 2 * np.abs(native - exact).max() + 4 * EPS[precision] * np.abs(exact).max()
    model = f"zoo:{name}"
    if runtime == "torch":
        session = open_session(model, runtime, batch=2, capacity=LENGTH)
    else:
        session = DecodeSession(decode_file(model, precision), runtime, batch=2, capacity=LENGTH)
    lengths = np.array([LENGTH, LENGTH - 100])
    rows = read_in_pieces(session, tokens(), lengths, np.random.default_rng(12), SIZES)
    error = max(np.abs(row - exact[index, : len(row)]).max() for index, row in enumerate(rows))
    print(f"{name}, {precision}, {runtime}: {error / allowed:.3f} of the allowed error")
    assert error <= allowed
