"""Tokens are drawn from the distribution that the settings describe."""

from __future__ import annotations

import math
from typing import Any

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
    seed=st.integers(0, 2**64 - 1),
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
        ({"min_p": 1.5}, "min-p"),
        ({"repetition_penalty": 0.0}, "repetition penalty"),
        ({"presence_penalty": math.inf}, "presence"),
        ({"logit_bias": {-1: 0.0}}, "logit bias"),
        ({"logit_bias": {1: math.inf}}, "logit bias"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampling(**arguments)
    with pytest.raises(UsageError, match="seed"):
        Sampler(Sampling(), -1)
    with pytest.raises(UsageError, match="seed"):
        Sampler(Sampling(), 2**64)
    with pytest.raises(UsageError, match=r"token id 6, which is not in 0\.\.5"):
        Sampler(Sampling(logit_bias={6: 1.0}), 0).choose(LOGITS)


def test_min_p_cuts_what_is_far_less_likely_than_the_likeliest() -> None:
    assert candidates(LOGITS, Sampling(min_p=0.3))[0].tolist() == [1, 3, 2]
    assert candidates(LOGITS, Sampling(min_p=1.0))[0].tolist() == [1, 3]


def test_penalties_take_off_what_was_said_before() -> None:
    repeated = Sampler(Sampling(temperature=0, repetition_penalty=2.0), 0, prompt=[1, 4])
    # 3.0 / 2 for token 1, then for token 3 too: token 2 with 2.0 is left, and then 1.5 of token 1 leads.
    assert [repeated.choose(LOGITS) for _ in range(3)] == [3, 2, 1]
    present = Sampler(Sampling(temperature=0, presence_penalty=2.5), 0, prompt=[1])
    assert [present.choose(LOGITS) for _ in range(4)] == [1, 3, 2, 0]
    frequent = Sampler(Sampling(temperature=0, frequency_penalty=0.6), 0)
    assert [frequent.choose(LOGITS) for _ in range(6)] == [1, 3, 1, 3, 2, 1]


def test_bias_and_callback_change_the_logits() -> None:
    assert Sampler(Sampling(temperature=0, logit_bias={5: 3.0}), 0).choose(LOGITS) == 5
    assert Sampler(Sampling(temperature=0, logit_bias={1: -math.inf, 3: -math.inf}), 0).choose(LOGITS) == 2

    def only_zero(logits: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        logits[1:] = -np.inf

    assert {Sampler(Sampling(on_logits=only_zero), seed).choose(LOGITS) for seed in range(9)} == {0}
    assert LOGITS[1] == 3.0


def test_log_probabilities_are_those_of_the_model() -> None:
    choice = Sampler(Sampling(temperature=0, logit_bias={5: 9.0}), 0).pick(LOGITS, top=2)
    exact = LOGITS.astype(np.float64) - np.log(np.exp(LOGITS.astype(np.float64)).sum())
    assert choice.token == 5
    assert choice.log_probability == pytest.approx(exact[5], rel=1e-12)
    assert choice.top == ((1, pytest.approx(exact[1])), (3, pytest.approx(exact[3])))
