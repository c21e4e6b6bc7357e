"""Choosing tokens in C++ and in Python: the same settings and seeds give the same tokens."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.plugins.native import built

from hsm_export.decoding.sampling import Sampler, Sampling

VOCABULARY = 300
PROMPT = [3, 7, 7, 100, 299]
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "warm": {"temperature": 0.8},
    "top-k": {"temperature": 1.3, "top_k": 20},
    "top-p": {"temperature": 1.0, "top_p": 0.6},
    "min-p": {"temperature": 2.0, "min_p": 0.2},
    "repetition": {"temperature": 0.7, "repetition_penalty": 1.4},
    "presence": {"temperature": 0.0, "presence_penalty": 1.5, "frequency_penalty": 0.25},
    "all": {
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.1,
        "logit_bias": {3: 2.5},
    },
    "forbidden": {"temperature": 1.0, "logit_bias": {3: -np.inf}},
}


@pytest.mark.parametrize("seed", [0, 12345, 2**64 - 1])
@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_and_their_log_probabilities(name: str, seed: int, tmp_path: Path) -> None:
    logits = np.random.default_rng(seed % 1000).normal(0, 2, (200, VOCABULARY)).astype(np.float32)
    logits[:, 3] += 1
    logits.tofile(tmp_path / "logits")
    sampling = Sampling(**SETTINGS[name])
    numbers = [
        sampling.temperature,
        sampling.top_k or 0,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.logit_bias.get(3, 0.0),
    ]
    command = [built("runtime/hsm_sampled_tokens"), tmp_path / "logits", VOCABULARY, seed, *numbers, *PROMPT]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    sampler = Sampler(sampling, seed, PROMPT)
    for line, row in zip(done.stdout.splitlines(), logits, strict=True):
        fields = line.split()
        choice = sampler.pick(row, top=3)
        assert choice.token == int(fields[0])
        assert [token for token, _ in choice.top] == [int(item) for item in fields[2::2]]
        ours = [choice.log_probability, *(probability for _, probability in choice.top)]
        # Sums of 300 terms in another order.
        np.testing.assert_allclose([float(item) for item in fields[1::2]], ours, rtol=0, atol=1e-12)
