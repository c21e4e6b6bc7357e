"""Bundles of quantised decoding files: the C++ runtime writes what Python's generator writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.exporter.bundling.triton_server import Model

import hsm_export
from hsm_export.bundling.triton import write_repository
from hsm_export.decoding.sampling import Sampling
from hsm_export.native import find_library
from hsm_models import zoo
from hsm_models.checkpoint import read_config

LIBRARY = find_library("libhsm_runtime.so")
LANGUAGE = [name for name in zoo.names() if read_config(zoo.path(name)).task == "language_model"]
PROMPTS = ["And God said", "In the beginning", "The sons of", "x", "And the LORD spake unto Moses, saying"]
TOKENS = 40

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this installation has no libhsm_runtime.so")


@pytest.mark.slow  # each searches for the forms of its weights, a minute or more
@pytest.mark.parametrize("last_logits", [False, True], ids=["all-logits", "last-logits"])
@pytest.mark.parametrize("name", LANGUAGE)
def test_quantised_models_write_the_same_in_cpp(name: str, last_logits: bool, tmp_path: Path) -> None:
    """Greedy and sampled, five prompts on two rows, through the C interface as Triton's back end calls it."""
    assert LIBRARY is not None
    hsm_export.export(f"zoo:{name}", output=tmp_path / "d.onnx", decode=True, capacity=96, last_logits=last_logits)
    hsm_export.quantize(tmp_path / "d.onnx", tmp_path / "q.onnx", "kl=1e-2")
    quantised = tmp_path / "q.onnx"
    assert quantised.stat().st_size < 0.5 * (tmp_path / "d.onnx").stat().st_size
    write_repository(None, tmp_path / "repository", decode=quantised, max_batch=2, libraries=str(LIBRARY.parent))
    model = Model(tmp_path / "repository", "q-text")
    try:
        for temperature in (0.0, 0.8):
            requests = [
                model.submit(
                    {"text_input": prompt, "max_tokens": TOKENS, "temperature": temperature, "random_seed": seed}
                )
                for seed, prompt in enumerate(PROMPTS)
            ]
            texts = ["".join(a.outputs[0].as_numpy()[0].decode() for a in request.answers()) for request in requests]
            generated = hsm_export.generate(
                quantised,
                PROMPTS,
                max_tokens=TOKENS,
                sampling=Sampling(temperature=temperature),
                seeds=list(range(len(PROMPTS))),
            )
            assert texts == [completion.text for completion in generated.completions], temperature
    finally:
        model.own.finalize()
