"""Random inputs for our operators by name; see `hsm_operators.testing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hsm_operators import OPERATORS, Operator, Port, expression
from hsm_operators.case import Case
from hsm_operators.testing import Subject
from hsm_operators.testing.subject import row_range as _row_range

SMALL: dict[str, Case] = {name: Subject.own(name).small for name in OPERATORS}


def attributes_of(name: str) -> dict[str, Any]:
    """Return attributes for tests that are not about the values of attributes."""
    return Subject.own(name).attributes


def sizes_of(name: str, wanted: Mapping[str, int], attributes: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return the sizes of all dimensions: those wanted, the small case's else, after what the rules make of them."""
    return Subject.own(name).sizes(wanted, attributes)


def keeps_rules(operator: Operator, sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> bool:
    """Whether sizes and attributes are what the operator's rules say."""
    return all(expression.evaluate(rule.condition, {**sizes, **attributes}) for rule in operator.rules)


def row_range(port: Port, sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least and the largest number to draw for an int64 input."""
    return _row_range(port, {**sizes, **attributes}, sizes.get("T", 0))
