"""Search the cheapest set of nodes to keep in float32, given a way to measure any set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError


@dataclass(frozen=True)
class Deviation:
    """How far the outputs are off: the largest error, and the root mean square of all."""

    largest: float
    rms: float


class PlanSearch:
    """Finds a set of nodes that meets a target and of which none can be left out.

    The order of value comes from what each node's rounding does alone, in an otherwise exact graph: roundings are
    independent, so their squares add up. The largest error, which the target is about, is too much a matter of luck
    to be a guide; it only decides.

    Args:
        measure: measures the file whose listed nodes are float32.
        candidates: names of all nodes for which there is a choice.
        costs: of each candidate, what float32 costs.
        rule: the candidates that the rule by operator type keeps in float32.
        target: the largest error allowed.
        progress: receives a phase in words.
    """

    def __init__(
        self,
        measure: Callable[[frozenset[str]], Deviation],
        candidates: Sequence[str],
        costs: Mapping[str, float],
        rule: Collection[str],
        target: float,
        progress: Callable[[str], None],
    ) -> None:
        self._measure = measure
        self._candidates = candidates
        self._costs = costs
        self._rule = frozenset(rule)
        self._target = target
        self._progress = progress
        self._known: dict[frozenset[str], Deviation] = {}
        self.alone: dict[str, float] = {}

    @property
    def trials(self) -> int:
        """Number of sets that were measured."""
        return len(self._known)

    def measured(self, names: Collection[str]) -> Deviation:
        """Return how far off a set is; each is measured once."""
        key = frozenset(names)
        if key not in self._known:
            self._known[key] = self._measure(key)
        return self._known[key]

    def run(self) -> tuple[str, ...]:
        """Return the set, the most valuable node for its cost first.

        Raises:
            UsageError: not even with all candidates in float32 the target is met.
        """
        if self._meets(()):
            return ()
        everything = frozenset(self._candidates)
        if not self._meets(everything):
            reached = self.measured(everything).largest
            raise UsageError(
                f"no plan reaches the target error {self._target:.3g}: float32 errs by {reached:.3g}",
                "ask for a larger target error",
            )
        self._progress("measuring what each node's rounding does alone")
        for name in self._candidates:
            self.alone[name] = self.measured(everything - {name}).rms
        order = sorted(self._candidates, key=self._value, reverse=True)
        self._progress("searching the smallest set that meets the target")
        found = [self._reduced(self._shortest_prefix(order))]
        if self._meets(self._rule):
            found.append(self._reduced([name for name in order if name in self._rule]))
        return min(found, key=lambda names: (len(names) >= len(self._rule), self.cost(names)))

    def cost(self, names: Collection[str]) -> float:
        """Return what keeping these nodes in float32 costs."""
        return sum(self._costs[name] for name in names)

    def _value(self, name: str) -> float:
        exact = self.measured(self._candidates).rms
        return (self.alone[name] ** 2 - exact**2) / self._costs[name]

    def _meets(self, names: Collection[str]) -> bool:
        return self.measured(names).largest <= self._target

    def _shortest_prefix(self, order: Sequence[str]) -> list[str]:
        """Return the shortest prefix that meets the target, by halving: the error falls but for noise."""
        short, long = 0, len(order)
        while long - short > 1:
            middle = (short + long) // 2
            if self._meets(order[:middle]):
                long = middle
            else:
                short = middle
        return list(order[:long])

    def _reduced(self, kept: list[str]) -> tuple[str, ...]:
        """Leave out what can be left out, the least valuable first: halves, quarters, … then one by one.

        The last pass tries each remaining node and can leave out none.
        """
        size = max(1, len(kept) // 2)
        while True:
            changed = False
            for end in range(len(kept), 0, -size):
                fewer = kept[: max(0, end - size)] + kept[end:]
                if self._meets(fewer):
                    kept, changed = fewer, True
            if size > 1:
                size //= 2
            elif not changed:
                return tuple(kept)
