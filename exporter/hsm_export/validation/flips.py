"""Compare expert choices: which differ from the arbiter's, and which of those are mere near ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtimes.routing import RoutedNode
from .results import Flips

Array = NDArray[Any]


class FlipCounter:
    """Counts one runtime's flips over all cases.

    In the forced runs every operator sees what it sees in the arbiter, up to rounding, so they measure the router's
    error: how far the difference between two logits that compete for a place is off. A flip in a free run is excused
    where the arbiter's margin is below that. After it the sequence goes its own way, so flips of later operators in
    the same row are its consequences.

    Args:
        routed: the expert operators in graph order.
    """

    def __init__(self, routed: Sequence[RoutedNode]) -> None:
        self._routed = routed
        self._router_error = {node.name: 0.0 for node in routed}
        self._choices = self._excused = self._consequent = self._unexcused = 0
        self._largest_margin = 0.0

    def measure_router(self, arbiter: Mapping[str, Array], runtime: Mapping[str, Array]) -> None:
        """Take the router's error from a forced run."""
        for node in self._routed:
            error = np.asarray(runtime[node.logits], np.float64) - arbiter[node.logits]
            if error.size and np.isfinite(error).all():
                spread = float((error.max(-1) - error.min(-1)).max())
                self._router_error[node.name] = max(self._router_error[node.name], spread)

    def count(self, arbiter: Mapping[str, Array], runtime: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Count the flips of a free run; return which batch rows have none (B,)."""
        flipped_rows = np.zeros(1, dtype=bool)
        for node in self._routed:
            reference = np.asarray(arbiter[node.logits])
            chosen = node.selection(np.asarray(runtime[node.logits]))
            expected = node.selection(reference)
            flips = (chosen != expected).any(-1)
            earlier = np.broadcast_to(flipped_rows.reshape(-1, *(1,) * (flips.ndim - 1)), flips.shape)
            margins = _margins(reference, expected, chosen)
            self._classify(node, flips, earlier, margins)
            flipped_rows = flipped_rows | flips.any(tuple(range(1, flips.ndim)))
        return ~flipped_rows

    def _classify(self, node: RoutedNode, flips: NDArray[np.bool_], earlier: NDArray[np.bool_], margins: Array) -> None:
        near_tie = margins <= self._router_error[node.name]
        excused = flips & near_tie
        self._choices += flips.size
        self._excused += int(excused.sum())
        self._consequent += int((flips & ~near_tie & earlier).sum())
        self._unexcused += int((flips & ~near_tie & ~earlier).sum())
        self._largest_margin = max(self._largest_margin, float(margins[excused].max(initial=0.0)))

    def doubtful_tokens(self, arbiter: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Return the tokens (B,T) for which a right runtime may choose another expert than the arbiter.

        That is where the best expert left out comes within twice the router's error of the worst one chosen: twice,
        because that is what any runtime may err.
        """
        doubtful = np.zeros((1, 1), dtype=bool)
        for node in self._routed:
            ordered = np.sort(np.asarray(arbiter[node.logits], np.float64), axis=-1)[..., ::-1]
            if node.k < ordered.shape[-1]:
                margins = ordered[..., node.k - 1] - ordered[..., node.k]
                close = margins <= 2 * self._router_error[node.name]
                doubtful = doubtful | close.any(tuple(range(2, close.ndim)))
        return doubtful

    def result(self) -> Flips:
        """Return the counts."""
        return Flips(
            choices=self._choices,
            excused=self._excused,
            consequent=self._consequent,
            unexcused=self._unexcused,
            largest_margin=self._largest_margin,
            router_error=max(self._router_error.values(), default=0.0),
        )


def _margins(reference: Array, expected: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> Array:
    """Return by how much the arbiter preferred the best expert that was dropped to the worst one gained."""
    dropped = np.where(expected & ~chosen, reference, -np.inf).max(-1)
    gained = np.where(chosen & ~expected, reference, np.inf).min(-1)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(dropped) & np.isfinite(gained), dropped - gained, np.inf)
