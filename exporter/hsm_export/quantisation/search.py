"""Search the cheapest form of every weight within a budget, given a way to measure any choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..formats.quantisation_plan import Form, Loss

Choice = dict[str, Form]


@dataclass(frozen=True)
class Option:
    """A form that a weight may have: what it costs, and what it does to the predictions when it is alone."""

    form: Form
    cost: float
    harm: float


class FormSearch:
    """Finds forms that meet a target and of which none can be exchanged for the next cheaper one.

    What forms do alone tells which saves most for its harm: roundings of different weights are independent, so that
    their mean KL divergences, and the squares of their errors, add up. Whole choices are then measured: the target
    decides, never the sum.

    Args:
        measure: measures a choice; weights that it leaves out stay float32.
        costs: of each weight, its forms with their costs; float32 is among them.
        progress: receives a phase in words.
    """

    def __init__(
        self,
        measure: Callable[[Choice], Loss],
        costs: Mapping[str, Mapping[Form, float]],
        harm: Callable[[Loss], float],
        progress: Callable[[str], None],
    ) -> None:
        self._measure = measure
        self._costs = costs
        self._harm = harm
        self._progress = progress
        self._known: dict[tuple[tuple[str, Form], ...], Loss] = {}
        self._options: dict[str, list[Option]] = {}
        self._ceiling = math.inf

    def measured(self, choice: Mapping[str, Form]) -> Loss:
        """Return what a choice costs; each is measured once."""
        key = tuple(sorted((name, form) for name, form in choice.items() if form != "fp32"))
        if key not in self._known:
            self._known[key] = self._measure(dict(key))
        return self._known[key]

    def alone(self, name: str, form: Form) -> float:
        """Return what a form of one weight does alone."""
        return self._harm(self.measured({name: form}))

    def options(self, name: str) -> Sequence[Option]:
        """Return the forms of a weight that are worth having, the cheapest first: the dearer ones do less harm."""
        if name not in self._options:
            found = [
                Option(form, cost, 0.0 if form == "fp32" else self.alone(name, form))
                for form, cost in self._costs[name].items()
                if cost < self._costs[name]["fp32"] or form == "fp32"
            ]
            found.sort(key=lambda item: (item.cost, item.harm))
            kept: list[Option] = []
            for item in found:
                if not kept or item.harm < kept[-1].harm:
                    kept.append(item)
            self._options[name] = kept
        return self._options[name]

    def run(self, target: float, ceiling: float = math.inf) -> Choice:
        """Return the forms of all weights; float32 everywhere is taken to meet every target.

        Args:
            target: the largest bound of the budget's metric.
            ceiling: the largest harm, as `harm` counts it.
        """
        self._ceiling = ceiling
        self._progress("measuring what each form of each weight does alone")
        for name in self._costs:
            self.options(name)
        self._progress("searching the cheapest forms within the budget")
        steps = self._steps()
        good, bad = 0, len(steps) + 1
        while bad - good > 1:
            middle = (good + bad) // 2
            if self.meets(self._after(steps[:middle]), target):
                good = middle
            else:
                bad = middle
        return self._reduced(self._after(steps[:good]), target)

    def meets(self, choice: Mapping[str, Form], target: float) -> bool:
        """Say whether a choice keeps the target."""
        found = self.measured(choice)
        return found.bound <= target and self._harm(found) <= self._ceiling

    def cost(self, choice: Mapping[str, Form]) -> float:
        """Return what a choice costs."""
        return sum(costs[choice.get(name, "fp32")] for name, costs in self._costs.items())

    def cheaper(self, name: str, form: Form) -> Form | None:
        """Return the next cheaper form of a weight that is worth having."""
        below = [item for item in self.options(name) if item.cost < self._costs[name][form]]
        return below[-1].form if below else None

    def _steps(self) -> list[tuple[str, Form]]:
        """Return exchanges of one form for a cheaper one, those that save most for their harm first.

        Of each weight only the forms on the lower convex hull of cost and harm are among them, so that its exchanges
        come in their order.
        """
        found: list[tuple[float, str, Form]] = []
        for name in self._costs:
            hull: list[Option] = []
            for item in reversed(self.options(name)):
                while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], item):
                    hull.pop()
                hull.append(item)
            found += [(_slope(before, after), name, after.form) for before, after in pairwise(hull)]
        return [(name, form) for _, name, form in sorted(found, key=lambda item: item[0])]

    def _after(self, steps: Sequence[tuple[str, Form]]) -> Choice:
        return {**dict.fromkeys(self._costs, "fp32"), **dict(steps)}

    def _reduced(self, choice: Choice, target: float) -> Choice:
        """Exchange every form for a cheaper one where the target allows it, the largest savings first.

        The last pass tries each weight's next cheaper form and can take none.
        """
        while True:
            changed = False
            for name in sorted(choice, key=lambda item: self._saving(item, choice[item]), reverse=True):
                form = self.cheaper(name, choice[name])
                while form is not None and self.meets({**choice, name: form}, target):
                    choice, changed = {**choice, name: form}, True
                    form = self.cheaper(name, form)
            if not changed:
                return choice

    def _saving(self, name: str, form: Form) -> float:
        below = self.cheaper(name, form)
        return -math.inf if below is None else self._costs[name][form] - self._costs[name][below]


def _slope(before: Option, after: Option) -> float:
    """Return the harm of an exchange for each unit of cost that it saves."""
    return (after.harm - before.harm) / (before.cost - after.cost)
