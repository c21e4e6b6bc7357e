"""Cases are complete, and rules say how sizes become right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsm_operators import OPERATORS, Rule, expression
from hsm_operators.case import Case, adjustments
from hsm_operators.generate.__main__ import own_families
from hsm_operators.generate.family import CPU, CUDA, NAIVE

FAMILIES = {family.name: family for family in own_families()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_with_kernels_has_definitions_and_cases_of_all_its_operators(name: str) -> None:
    family = FAMILIES[name]
    if not family.has(CPU) and not family.has(CUDA):
        return
    assert family.has(NAIVE)
    assert [case.operator for case in family.small] == list(family.operators)
    assert {case.operator.name for case in family.typical} == {operator.name for operator in family.operators}


@pytest.mark.parametrize("name", FAMILIES)
def test_cases_keep_the_rules(name: str) -> None:
    for case in (*FAMILIES[name].small, *FAMILIES[name].typical):
        values = {**case.all_sizes, **case.attributes}
        for rule in case.operator.rules:
            assert expression.evaluate(rule.condition, values), f"{case.operator.name} {case.label}: {rule.condition}"


@pytest.mark.parametrize(
    ("condition", "size", "expected"),
    [
        ("F == 3 * d", "F", 12),
        ("3 * d == F", "F", 12),
        ("F >= d + 9", "F", 13),
        ("d + 9 < F", "F", 14),
        ("F <= d", "F", 4),
        ("F == d", "F", 4),
        ("F < d", "F", 3),
        ("F % (d + 2) == 0", "F", 12),
        ("F >= 2 and d % 3 == 0", "d", 6),
    ],
)
def test_sizes_are_adjusted_to_rules(condition: str, size: str, expected: int) -> None:
    operator = replace(OPERATORS["CausalTaylorShift"], rules=(Rule(condition, "wrong"),))
    values = {"F": 8, "d": 4}
    for name, text in adjustments(operator):
        values[name] = expression.evaluate(text, values)
    assert values[size] == expected
    assert expression.evaluate(condition, values)


@pytest.mark.parametrize("condition", ["F != 3", "F * d <= 4", "F == 2 or d == 1", "F % 3 == 1"])
def test_other_rules_adjust_nothing(condition: str) -> None:
    assert not list(adjustments(replace(OPERATORS["CausalTaylorShift"], rules=(Rule(condition, "wrong"),))))


def test_a_label_names_the_sizes_given_and_the_numbers() -> None:
    (case, *_) = FAMILIES["expert_matmul"].typical
    assert case.label == "B=1 T=2048 D=512 H=8 E=8 f=64 k=2"
    (case, *_) = FAMILIES["causal_taylor_shift"].typical
    assert case.label == "B=1 T=2048 H=8 d=32 e=32"
    assert case.all_sizes["F"] == 561


@pytest.mark.parametrize(("sizes", "attributes"), [({"B": 1}, {"shifts": (1,)}), ({"B": 1, "T": 1, "D": 1}, {})])
def test_what_a_case_lacks_is_named(sizes: dict[str, int], attributes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="a case of hsm::TokenShift needs"):
        Case(OPERATORS["TokenShift"], sizes, attributes)
