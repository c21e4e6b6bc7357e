"""Choosing the next token from logits: greedy or random, each sequence with a random stream of its own.

The C++ runtime chooses by the same settings, in the same order, with the same random numbers
(plugins/runtime/include/hsm_runtime/sampling.h); tests/plugins/test_sampling.py compares the two token for token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HsmExportError, UsageError

_SEEDS = 2**64


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    The steps come in this order: repetition_penalty, presence and frequency penalty, logit_bias, on_logits,
    temperature, top_k, top_p, min_p.

    Attributes:
        temperature: the logits are divided by it; 0 takes the likeliest token (the lower id of equal ones).
        top_k: choose among the k likeliest tokens only; None means all.
        top_p: choose among the likeliest tokens that together reach this probability; 1 means all.
        min_p: choose among the tokens at least so many times as likely as the likeliest; 0 means all.
        repetition_penalty: positive logits of tokens of the prompt and of the reply so far are divided by it, others
            multiplied (Keskar et al. 2019); 1 changes nothing.
        presence_penalty: taken off the logits of tokens that the reply holds already.
        frequency_penalty: taken off a token's logit for each time that the reply holds it already.
        logit_bias: token id -> what is added to its logit; minus infinity forbids it.
        on_logits: is called with all logits, (V,) float64, before one is chosen, and may change them in place.

    Raises:
        UsageError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    on_logits: Callable[[NDArray[np.float64]], None] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"the temperature must be 0 or more, got {self.temperature}", "0 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k must be at least 1, got {self.top_k}", "leave it out to choose among all tokens")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must lie above 0 and be at most 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min-p must lie from 0 to 1, got {self.min_p}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise UsageError(
                f"the repetition penalty must be above 0, got {self.repetition_penalty}", "1 changes nothing"
            )
        if not (math.isfinite(self.presence_penalty) and math.isfinite(self.frequency_penalty)):
            raise UsageError("the presence and the frequency penalty must be finite")
        for token, bias in self.logit_bias.items():
            if token < 0 or not bias < math.inf:
                raise UsageError(f"a logit bias must be a token id and a number or minus infinity, got {token}: {bias}")

    @property
    def has_penalties(self) -> bool:
        """Whether a choice depends on the tokens before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Choice:
    """A chosen token.

    Attributes:
        token: its id.
        log_probability: natural logarithm of the softmax of the model's own logits there, before all settings.
        top: ids and log-probabilities of the likeliest tokens, likeliest first, as many as were asked for.
    """

    token: int
    log_probability: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one sequence; what it draws depends on its seed alone, never on the rest of a batch.

    Args:
        sampling: how to choose.
        seed: of this sequence's random stream (SplitMix64, one number a token), 0 to 2**64-1.
        prompt: ids that came before, for the repetition penalty.

    Raises:
        UsageError: a seed out of range.
    """

    def __init__(self, sampling: Sampling, seed: int, prompt: Iterable[int] = ()) -> None:
        if not 0 <= seed < _SEEDS:
            raise UsageError(f"a seed must be 0 or more and below 2**64, got {seed}")
        self._sampling = sampling
        self._seed = seed
        self._drawn = 0
        self._seen = set(prompt)
        self._counts: Counter[int] = Counter()

    def choose(self, logits: NDArray[Any]) -> int:
        """Return the next token's id from its logits (V,); see `pick`."""
        return self.pick(logits).token

    def pick(self, logits: NDArray[Any], top: int = 0) -> Choice:
        """Return the next token from its logits (V,), and how likely it and the `top` likeliest tokens were.

        Raises:
            HsmExportError: the logits hold NaN or positive infinity, or nothing but negative infinity.
            UsageError: a bias is of a token that the model lacks.
        """
        adjusted = self._adjusted(logits)
        if not np.isfinite(np.max(adjusted)):
            raise HsmExportError("the model's logits are not finite", "run `hsm-export validate` on the file")
        if self._sampling.temperature == 0:
            token = int(np.argmax(adjusted))
        else:
            ids, weights = candidates(adjusted, self._sampling)
            cumulative = np.cumsum(weights)
            drawn = uniform(self._seed, self._drawn) * cumulative[-1]
            # Rounding may leave nothing above what was drawn.
            token = int(ids[min(int(np.searchsorted(cumulative, drawn, side="right")), len(ids) - 1)])
        self._drawn += 1
        self._seen.add(token)
        self._counts[token] += 1
        return described(logits, token, top)

    def _adjusted(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """Return the logits after penalties, bias and callback, in float64."""
        sampling = self._sampling
        adjusted = logits.astype(np.float64)
        if sampling.repetition_penalty != 1 and self._seen:
            seen = list(self._seen)
            found = adjusted[seen]
            penalty = sampling.repetition_penalty
            adjusted[seen] = np.where(found > 0, found / penalty, found * penalty)
        if sampling.presence_penalty or sampling.frequency_penalty:
            for token, count in self._counts.items():
                adjusted[token] -= sampling.presence_penalty + count * sampling.frequency_penalty
        return changed(adjusted, sampling)


def changed(logits: NDArray[Any], sampling: Sampling) -> NDArray[np.float64]:
    """Return logits (V,) in float64 after bias and callback.

    Raises:
        UsageError: a bias is of a token that the model lacks.
    """
    adjusted = logits.astype(np.float64)
    for token, bias in sampling.logit_bias.items():
        if token >= len(adjusted):
            raise UsageError(f"the logit bias is of token id {token}, which is not in 0..{len(adjusted) - 1}")
        adjusted[token] += bias
    if sampling.on_logits is not None:
        sampling.on_logits(adjusted)
    return adjusted


def uniform(seed: int, index: int) -> float:
    """Return number `index` of a seed's random stream in [0, 1): SplitMix64 (Steele, Lea and Flood 2014)."""
    bits = (seed + (index + 1) * 0x9E3779B97F4A7C15) % _SEEDS
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % _SEEDS
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % _SEEDS
    return ((bits ^ (bits >> 31)) >> 11) * 2.0**-53


def candidates(logits: NDArray[Any], sampling: Sampling) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ids that may be chosen, likeliest first, and weights in the ratio of their probabilities.

    Args:
        logits: (V,), any float type; computed on in float64.
        sampling: with a temperature above 0; its top_k, top_p and min_p are looked at.
    """
    order = np.argsort(-logits, kind="stable")[: sampling.top_k]
    wide = logits[order].astype(np.float64)
    weights = np.exp((wide - wide[0]) / sampling.temperature)
    cumulative = np.cumsum(weights)
    before = np.concatenate(([0.0], cumulative[:-1])) / cumulative[-1]
    # The token that crosses top_p belongs to them.
    kept = (before < sampling.top_p) & (weights > 0) & (weights >= sampling.min_p)
    return order[kept], weights[kept] / cumulative[-1]


def described(logits: NDArray[Any], token: int, top: int) -> Choice:
    """Return a chosen token with its log-probability, and those of the `top` likeliest, by logits (V,)."""
    wide = logits.astype(np.float64)
    highest = wide.max()
    total = math.log(np.exp(wide - highest).sum())
    likeliest = np.argsort(-wide, kind="stable")[:top] if top else ()
    return Choice(
        token,
        float(wide[token] - highest - total),
        tuple((int(item), float(wide[item] - highest - total)) for item in likeliest),
    )
