"""Speculative decoding has the distribution of the target alone, whatever the draft proposes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.exporter.decoding.harness import open_session

from hsm_export import Generator
from hsm_export.decoding.sampling import GREEDY, Sampling, uniform
from hsm_export.decoding.speculation import Speculation, _draw, judge
from hsm_export.errors import UsageError

PROMPT = list(b"And God said unto")


def chi_square_limit(degrees: int) -> float:
    """Return what a chi-square variable exceeds once in a million times (Wilson and Hilferty 1931)."""
    ratio = 2 / (9 * degrees)
    return degrees * float(1 - ratio + 4.7534 * math.sqrt(ratio)) ** 3


def test_tokens_have_the_distribution_of_the_target() -> None:
    p1, q1 = np.array([0.5, 0.2, 0.3, 0.0]), np.array([0.1, 0.6, 0.1, 0.2])
    p2 = np.array([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    q2, runs, drawn = np.array([0.4, 0.3, 0.2, 0.1]), 20_000, 0
    counts = np.zeros((4, 4))

    def random() -> float:
        nonlocal drawn
        drawn += 1
        return uniform(17, drawn)

    for _ in range(runs):
        proposed = [_draw(q1, random()), _draw(q2, random())]
        made = judge(proposed, [q1, q2], [p1, p2[proposed[0]], q2], random)
        if len(made) == 1:  # a refused proposal ends the round; the next one begins with the target's own token
            made.append(_draw(p2[made[0]], random()))
        counts[made[0], made[1]] += 1
    expected = runs * p1[:, None] * p2
    assert counts[3].sum() == 0
    statistic = ((counts[:3] - expected[:3]) ** 2 / expected[:3]).sum()
    assert statistic < chi_square_limit(11)
    # The test would see the draft's distribution.
    assert runs * ((q1 - p1)[:3] ** 2 / p1[:3]).sum() > chi_square_limit(2)


@pytest.mark.parametrize(
    ("target", "draft"),
    [("zoo:hsm-lm", "zoo:taylor-shift-lm"), pytest.param("zoo:taylor-shift-lm", "zoo:hsm-lm", marks=pytest.mark.slow)],
)
def test_greedy_tokens_are_those_of_the_target(target: str, draft: str) -> None:
    session = open_session(target, "ort", capacity=120)
    text = bytes(PROMPT).decode()
    right = Generator(session).generate(text, max_tokens=60, sampling=GREEDY).completions[0].tokens
    speculation = Speculation(session, open_session(draft, "ort", capacity=120), GREEDY)
    speculation.prefill(PROMPT[:5])
    speculation.prefill(PROMPT[5:])
    made: list[int] = []
    while len(made) < 60:
        made += speculation.next()
    assert tuple(made[:60]) == right
    assert 0 < speculation.accepted < speculation.proposed


def test_capacities_end_the_sequence() -> None:
    session, draft = (open_session(name, "ort", capacity=30) for name in ("zoo:switch-head-lm", "zoo:hsm-lm"))
    speculation = Speculation(session, draft, Sampling(), seed=3)
    speculation.prefill(PROMPT)
    made: list[int] = []
    with pytest.raises(UsageError, match="reached its capacity"):
        while True:
            made += speculation.next()
    # The last token was chosen and cannot be read.
    assert len(PROMPT) + len(made) == 31


def test_what_does_not_fit_is_refused() -> None:
    session = open_session("zoo:hsm-lm", "ort", capacity=30)
    for settings in (Sampling(presence_penalty=1.0), Sampling(repetition_penalty=2.0)):
        with pytest.raises(UsageError, match="penalties"):
            Speculation(session, session, settings)
    with pytest.raises(UsageError, match="at least one token"):
        Speculation(session, session, draft_tokens=0)
    speculation = Speculation(session, open_session("zoo:hsm-lm", "ort", capacity=30))
    with pytest.raises(UsageError, match="nothing was read"):
        speculation.next()
    with pytest.raises(UsageError, match="at least one token"):
        speculation.prefill([])
