"""A text read as a stream is predicted as well as in one pass."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tests.exporter.decoding.harness import RUNTIMES, checkpoint, decode_file, open_session

from hsm_export import perplexity
from hsm_export.decoding.perplexity import negative_log_likelihood
from hsm_export.errors import BadInputError, UsageError
from hsm_models import load_checkpoint

TEXT = Path(__file__).resolve().parents[2] / "models" / "training" / "held_out.txt"
LENGTH = 700  # the zoo was trained on windows of 128
MODELS = [
    "zoo:hsm-lm",
    *(
        pytest.param(f"zoo:{name}", marks=pytest.mark.slow)
        for name in ("hsm-hybrid-lm", "switch-head-lm", "taylor-shift-lm", "baseline-softmax")
    ),
]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.read_bytes()[:LENGTH])
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", MODELS)
def test_a_stream_is_predicted_as_in_one_pass(name: str, runtime: str, text: Path) -> None:
    ids = list(text.read_bytes())
    model = load_checkpoint(checkpoint(name))
    with torch.inference_mode():
        native = model(torch.tensor([ids[:-1]])).double()
        exact = model.double()(torch.tensor([ids[:-1]]))
    expected = torch.nn.functional.cross_entropy(exact[0], torch.tensor(ids[1:])).item()
    source = name if runtime == "torch" else decode_file(name)
    result = perplexity(source, text, runtime=runtime, chunk=100)
    assert (result.runtime, result.tokens, result.bytes) == (runtime, LENGTH - 1, LENGTH - 1)
    # A token's loss moves by twice the error of its logits at most.
    error = 2 * float((native - exact).abs().max()) + 4 * np.finfo(np.float32).eps * float(exact.abs().max())
    assert abs(result.nats_per_token - expected) <= 2 * error
    assert result.bits_per_byte == pytest.approx(result.nats_per_token / math.log(2), rel=1e-12)
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token), rel=1e-12)
    assert 1 < result.bits_per_byte < 8


def test_chunks_do_not_matter() -> None:
    ids = list(TEXT.read_bytes()[:300])
    session = open_session("zoo:hsm-lm", "torch64")
    phases: list[str] = []
    whole = negative_log_likelihood(session, ids, chunk=1000)
    for chunk in (1, 7, 299):
        assert negative_log_likelihood(session, ids, chunk, phases.append) == pytest.approx(whole, rel=1e-12)
    assert len(phases) == 21
    assert phases[-1] == "299 of 299 tokens"


def test_misuse_is_one_clear_line(tmp_path: Path, text: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("x")
    with pytest.raises(BadInputError, match="has 1 tokens"):
        perplexity("zoo:hsm-lm", short)
    with pytest.raises(BadInputError, match="does not exist"):
        perplexity("zoo:hsm-lm", tmp_path / "none.txt")
    with pytest.raises(UsageError, match="chunk"):
        perplexity("zoo:hsm-lm", text, chunk=0)
    session = open_session("zoo:hsm-lm", "torch")
    session._stepper.spec = msgspec.structs.replace(session.spec, last_logits=True)
    with pytest.raises(UsageError, match="last token only"):
        negative_log_likelihood(session, list(text.read_bytes()))
    with pytest.raises(UsageError, match="reach 699 tokens, but the state holds 64"):
        negative_log_likelihood(open_session("zoo:baseline-softmax", "torch"), list(text.read_bytes()))
