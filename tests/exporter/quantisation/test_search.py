"""The search keeps its target, and no weight could have its next cheaper form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hsm_export.formats.quantisation_plan import Form, Loss
from hsm_export.quantisation.search import Choice, FormSearch

COSTS: dict[Form, float] = {"fp32": 32.0, "fp16": 16.0, "int8": 8.25, "int4x32": 5.0, "int4x128": 4.25}
HARMS: dict[Form, float] = {"fp32": 0.0, "fp16": 1e-7, "int8": 1e-4, "int4x32": 1e-2, "int4x128": 2e-2}


def _search(names: list[str], seed: int, together: float = 1.0) -> FormSearch:
    weights = dict(zip(names, np.random.default_rng(seed).uniform(0.1, 10, len(names)), strict=True))

    def measure(choice: Choice) -> Loss:
        kl = sum(weights[name] * HARMS[form] for name, form in choice.items())
        kl *= together if len(choice) > 1 else 1.0
        return Loss(kl, 1.0, 0.0, 0.0, 100, kl)

    return FormSearch(measure, dict.fromkeys(names, COSTS), lambda loss: loss.kl, lambda phase: None)


@pytest.mark.parametrize("together", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("target", [0.0, 1e-5, 1e-3, 0.03, 10.0])
def test_a_choice_keeps_the_target_and_is_minimal(target: float, together: float) -> None:
    search = _search(list("abcdef"), 1, together)
    choice = search.run(target)
    assert search.measured(choice).bound <= target
    for name, form in choice.items():
        cheaper = search.cheaper(name, form)
        assert cheaper is None or search.measured({**choice, name: cheaper}).bound > target


def test_the_choice_is_near_the_cheapest_of_all() -> None:
    search = _search(list("abcd"), 2)
    choice = search.run(0.02)
    every = (dict(zip("abcd", forms, strict=True)) for forms in itertools.product(COSTS, repeat=4))
    cheapest = min(search.cost(item) for item in every if search.meets(item, 0.02))
    assert search.cost(choice) <= 1.1 * cheapest


def test_forms_that_cost_more_and_do_more_harm_are_left_out() -> None:
    worse: dict[Form, float] = {"fp32": 0.0, "fp16": 1e-7, "int8": 0.5, "int4x32": 1e-2, "int4x128": 2e-2}

    def measure(choice: Choice) -> Loss:
        kl = sum(worse[form] for form in choice.values())
        return Loss(kl, 1.0, 0.0, 0.0, 100, kl)

    search = FormSearch(measure, {"a": COSTS}, lambda loss: loss.kl, lambda phase: None)
    assert [item.form for item in search.options("a")] == ["int4x128", "int4x32", "fp16", "fp32"]
