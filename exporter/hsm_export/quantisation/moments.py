"""What weights are multiplied by: squares and second moments over the calibration's inputs, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .losses import Feed
from .sessions import open_session
from .weights import Weight

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

# Second moments (K,K) that are held at once; where all are more, the file is run again for the next ones.
_HELD_BYTES = 1 << 30


class Moments:
    """The inputs of each weight's products.

    Args:
        model: the graph, whose weights are inputs.
        weights: by their names.
        feeds: the calibration's inputs.
        complete: adds the weights to a feed.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        weights: Mapping[str, Weight],
        feeds: Sequence[Feed],
        complete: Callable[[Feed], Mapping[str, Array]],
    ) -> None:
        self._model = model
        self._feeds = feeds
        self._complete = complete
        makers = {name for node in model.graph.node for name in node.output}
        given = {name: [use.given for use in weight.uses if use.given in makers] for name, weight in weights.items()}
        self._given = {name: names for name, names in given.items() if names}
        self._depths = {tensor: weights[name].depth for name, names in self._given.items() for tensor in names}
        self._held: dict[str, Array] = {}

    @cached_property
    def _squares(self) -> dict[str, Array]:
        return self._summed(list(self._depths), lambda rows: np.square(rows).sum(axis=0))

    def squares(self, weight: str) -> Array | None:
        """Return the sums of squares (K,) of what is multiplied by a weight; None where unknown, zero or not finite."""
        return self._of(weight, self._squares)

    def second(self, weight: str) -> Array | None:
        """Return second moments (K,K), summed over the inputs; None as for `squares`."""
        names = self._given.get(weight, [])
        if any(name not in self._held for name in names):
            self._held.clear()
            self._held = self._summed(self._next(names), lambda rows: rows.T @ rows)
        return self._of(weight, self._held)

    def _next(self, first: list[str]) -> list[str]:
        """Return tensors, and those that come after them as far as their moments may be held with them."""
        order = list(self._depths)
        chosen, held = list(first), sum(8 * self._depths[name] ** 2 for name in first)
        for name in order[order.index(first[0]) :]:
            held += 0 if name in chosen else 8 * self._depths[name] ** 2
            if held > _HELD_BYTES:
                break
            chosen += [] if name in chosen else [name]
        return chosen

    def _of(self, weight: str, sums: Mapping[str, Array]) -> Array | None:
        found = [sums[name] for name in self._given.get(weight, [])]
        if not found:
            return None
        total = np.asarray(sum(found[1:], found[0]))
        return total if total.any() and np.isfinite(total).all() else None

    def _summed(self, wanted: list[str], measure: Callable[[Array], Array]) -> dict[str, Array]:
        """Run the file with more outputs, and add up what is measured of each."""
        import onnx

        if not wanted:
            return {}
        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        present = {value.name for value in copy.graph.output}
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present)
        session = open_session(copy)
        sums: dict[str, Array] = {}
        for feed in self._feeds:
            for name, array in zip(wanted, session.run(wanted, dict(self._complete(feed))), strict=True):
                found = measure(np.asarray(array, np.float64).reshape(-1, array.shape[-1]))
                if name in sums:
                    sums[name] += found
                else:
                    sums[name] = found
        return sums
