"""Choosing the next token from logits: greedy or random, each sequence with a random stream of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HsmExportError, UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: the logits are divided by it; 0 takes the likeliest token (the lower id of equal ones).
        top_k: choose among the k likeliest tokens only; None means all.
        top_p: choose among the likeliest tokens that together reach this probability; 1 means all.

    Raises:
        UsageError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"the temperature must be 0 or more, got {self.temperature}", "0 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k must be at least 1, got {self.top_k}", "leave it out to choose among all tokens")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must lie above 0 and be at most 1, got {self.top_p}")


GREEDY = Sampling(temperature=0.0)


class Sampler:
    """Chooses the tokens of one sequence; what it draws depends on its seed alone, never on the rest of a batch.

    Args:
        sampling: how to choose.
        seed: of this sequence's random stream (Philox), 0 or more.
    """

    def __init__(self, sampling: Sampling, seed: int) -> None:
        if seed < 0:
            raise UsageError(f"a seed must be 0 or more, got {seed}")
        self._sampling = sampling
        self._random = np.random.Generator(np.random.Philox(seed))

    def choose(self, logits: NDArray[Any]) -> int:
        """Return the next token's id from its logits (V,).

        Raises:
            HsmExportError: the logits hold NaN or positive infinity, or nothing but negative infinity.
        """
        if not np.isfinite(np.max(logits)):
            raise HsmExportError("the model's logits are not finite", "run `hsm-export validate` on the file")
        if self._sampling.temperature == 0:
            return int(np.argmax(logits))
        ids, weights = candidates(logits, self._sampling)
        cumulative = np.cumsum(weights)
        drawn = self._random.random() * cumulative[-1]
        # Rounding may leave nothing above what was drawn.
        return int(ids[min(int(np.searchsorted(cumulative, drawn, side="right")), len(ids) - 1)])


def candidates(logits: NDArray[Any], sampling: Sampling) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ids that may be chosen, likeliest first, and weights in the ratio of their probabilities.

    Args:
        logits: (V,), any float type; computed on in float64.
        sampling: with a temperature above 0.
    """
    order = np.argsort(-logits, kind="stable")[: sampling.top_k]
    wide = logits[order].astype(np.float64)
    weights = np.exp((wide - wide[0]) / sampling.temperature)
    weights /= weights.sum()
    before = np.cumsum(weights) - weights
    kept = (before < sampling.top_p) & (weights > 0)  # the token that crosses top_p belongs to them
    return order[kept], weights[kept]
