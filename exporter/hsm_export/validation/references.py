"""What a runtime on another machine has to meet: the arbiter's numbers and the tolerances, fit to be sent there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.bar import Bar
from ..runtimes.routing import RoutedNode
from .cases import Case
from .flips import FlipCounter

Array = NDArray[Any]


@dataclass(frozen=True)
class References:
    """Cases with their right answers.

    Attributes:
        arbiter: the runtime whose float64 numbers they are.
        cases: the inputs.
        bars: per case, what every graph output must be. Where a right runtime may choose other experts than the
            arbiter, its numbers do not count: from that token on in a causal model, the whole row in others.
        compared: share of the outputs' elements that count.
    """

    arbiter: str
    cases: tuple[Case, ...]
    bars: tuple[dict[str, Bar], ...]
    compared: float


def collect(
    arbiter: str,
    routed: Sequence[RoutedNode],
    cases: Sequence[Case],
    bars: Sequence[Mapping[str, Bar]],
    right: Sequence[Mapping[str, Array]],
    natives: Sequence[Sequence[Mapping[str, Array]]],
    *,
    causal: bool,
) -> References:
    """Put references together.

    Args:
        arbiter: the arbiter's name.
        routed: the expert operators.
        cases: the inputs.
        bars: per case, what every output of the instrumented graph must be.
        right: per case the arbiter's outputs.
        natives: per way to evaluate the baseline and case its outputs, with the arbiter's experts prescribed.
        causal: outputs (B,T,…) of a token depend on no later token.
    """
    flips = FlipCounter(routed)
    for native in natives:
        for expected, actual in zip(right, native, strict=True):
            flips.measure_router(expected, actual)
    hidden = {node.logits for node in routed}
    sendable = tuple(
        {
            name: _without(bar, flips.doubtful_tokens(expected), causal)
            for name, bar in of_case.items()
            if name not in hidden
        }
        for of_case, expected in zip(bars, right, strict=True)
    )
    counted = [bar.comparable for of_case in sendable for bar in of_case.values()]
    compared = sum(int(item.sum()) for item in counted) / max(sum(item.size for item in counted), 1)
    return References(arbiter, tuple(cases), sendable, compared)


def _without(bar: Bar, doubtful: NDArray[np.bool_], causal: bool) -> Bar:
    """Return a bar that does not count what doubtful tokens (B,T) lead to."""
    if not doubtful.any():
        return bar
    shape = bar.reference.shape
    if causal and shape[:2] == doubtful.shape:
        lost = np.logical_or.accumulate(doubtful, axis=1)
    else:
        lost = np.asarray(doubtful.any(1))
    aligned = lost.reshape(lost.shape + (1,) * (len(shape) - lost.ndim))
    return replace(bar, comparable=bar.comparable & ~aligned)
