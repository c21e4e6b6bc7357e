"""Tokens are drawn from the distribution that the settings describe."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_export.decoding.sampling import Sampler, Sampling, candidates
from hsm_export.errors import HsmExportError, UsageError

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -np.inf, 0.5], np.float32)


def test_greedy_takes_the_likeliest_and_the_lower_id_of_equal_ones() -> None:
    assert Sampler(Sampling(temperature=0), seed=7).choose(LOGITS) == 1


def test_candidates_are_the_softmax_likeliest_first() -> None:
    ids, weights = candidates(LOGITS, Sampling(temperature=0.7))
    exact = np.exp(LOGITS.astype(np.float64) / 0.7)
    assert ids.tolist() == [1, 3, 2, 0, 5]
    np.testing.assert_allclose(weights, (exact / exact.sum())[ids], rtol=1e-12)


def test_top_k_and_top_p_cut_the_unlikely() -> None:
    assert candidates(LOGITS, Sampling(top_k=3))[0].tolist() == [1, 3, 2]
    assert candidates(LOGITS, Sampling(top_k=99))[0].tolist() == [1, 3, 2, 0, 5]
    # The two equal ones have 0.37 each: the second crosses one half and belongs to them.
    assert candidates(LOGITS, Sampling(top_p=0.5))[0].tolist() == [1, 3]
    assert candidates(LOGITS, Sampling(top_p=1e-9))[0].tolist() == [1]


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.2, 0.0, 0.3], np.float32) + 1e-30)
    sampler = Sampler(Sampling(), seed=0)
    draws = 20_000
    counts = np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=4) / draws
    # Four standard errors of a frequency around one half.
    np.testing.assert_allclose(counts, [0.5, 0.2, 0.0, 0.3], atol=4 * math.sqrt(0.25 / draws))


@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    temperature=st.floats(1e-3, 1e3),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.floats(1e-6, 1.0),
    seed=st.integers(0, 2**64),
)
def test_any_draw_is_one_of_the_candidates_and_is_repeated_by_its_seed(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, seed: int
) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    array = np.array(logits, np.float32)
    first, second = (Sampler(sampling, seed) for _ in range(2))
    drawn = [first.choose(array) for _ in range(5)]
    assert drawn == [second.choose(array) for _ in range(5)]
    assert set(drawn) <= set(candidates(array, sampling)[0].tolist())


def test_half_precision_logits_are_drawn_from_in_float64() -> None:
    ids, weights = candidates(LOGITS.astype(np.float16), Sampling())
    assert weights.dtype == np.float64
    assert ids.tolist() == [1, 3, 2, 0, 5]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(bad: float) -> None:
    logits = LOGITS.copy()
    logits[2] = bad
    for sampling in (Sampling(), Sampling(temperature=0)):
        with pytest.raises(HsmExportError, match="not finite"):
            Sampler(sampling, 0).choose(logits)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top-k"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.5}, "top-p"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampling(**arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed"):
        Sampler(Sampling(), -1)
