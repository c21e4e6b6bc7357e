"""Random inputs for any operator, from its specification and the small case of its family's `cases.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hsm_operators import OPERATORS, Operator, Port, expression
from hsm_operators.case import Case
from hsm_operators.registry import part_of
from tests import oracles

Array = npt.NDArray[Any]

_CASES = [case for operator in OPERATORS.values() for case in part_of(operator, "cases").SMALL]
SMALL: dict[str, Case] = {case.operator.name: case for case in _CASES}
# Tokens that a carried state has seen.
_PAST = 5
# Numbers of a row that may be anything up to 2^63 are drawn from this many.
_ROW_NUMBERS = 50


def attributes_of(name: str) -> dict[str, int | list[int]]:
    """Return attributes for tests that are not about the values of attributes."""
    values = SMALL[name].attributes.items()
    return {key: list(value) if isinstance(value, Sequence) else value for key, value in values}


def sizes_of(name: str, wanted: Mapping[str, int], attributes: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return the sizes of all dimensions: those wanted, the small case's else, after what the rules make of them."""
    operator = OPERATORS[name]
    return Case(operator, {**SMALL[name].sizes, **wanted}, attributes or attributes_of(name)).all_sizes


def keeps_rules(operator: Operator, sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> bool:
    """Whether sizes and attributes are what the operator's rules say."""
    return all(expression.evaluate(rule.condition, {**sizes, **attributes}) for rule in operator.rules)


def row_range(port: Port, sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least and the largest number to draw for an int64 input."""
    assert port.rows is not None
    least, most = (expression.evaluate(text, {**sizes, **attributes}) for text in (port.rows.least, port.rows.most))
    return least, min(most, least + max(_ROW_NUMBERS, sizes.get("T", 0)))


def is_token(port: Port) -> bool:
    """Whether an input has a row for each token, of which those beyond the lengths are padding."""
    return port.shape[:2] == ("B", "T")


def floats(name: str, port: Port, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """Return normally distributed numbers, or numbers of the range that the family's cases give the input."""
    shape = [sizes[dimension] for dimension in port.shape]
    if port.name in SMALL[name].ranges:
        return rng.uniform(*SMALL[name].ranges[port.name], shape)
    return rng.standard_normal(shape)


def past(
    name: str, inputs: Mapping[str, Array], sizes: Mapping[str, int], attributes: Mapping[str, Any], rng: Any
) -> dict[str, Array]:
    """Return the states that some tokens leave behind, where a state sums up tokens; {} where there is none."""
    operator = OPERATORS[name]
    states = [state for state in operator.states if state.rollback == "snapshot"]
    if not states:
        return {}
    earlier = dict(inputs)
    for port in operator.inputs:
        if is_token(port):
            earlier[port.name] = floats(name, port, {**sizes, "T": _PAST}, rng)
        elif port.type == "tensor(int64)":
            earlier[port.name] = np.full(sizes["B"], _PAST)
    earlier |= {state.past: np.zeros_like(inputs[state.past]) for state in states}
    outputs = getattr(oracles, operator.torch_name)(**earlier, **attributes)
    found = dict(zip([port.name for port in operator.outputs], outputs, strict=True))
    return {state.past: found[state.present] for state in states}


def drawn(
    name: str,
    sizes: Mapping[str, int],
    attributes: Mapping[str, Any],
    rows: Mapping[str, Sequence[int]],
    rng: np.random.Generator,
) -> dict[str, Array]:
    """Return fresh inputs of the given sizes, floats in float64; `rows` are the int64 inputs."""
    result: dict[str, Array] = {}
    for port in OPERATORS[name].inputs:
        integers = port.type == "tensor(int64)"
        result[port.name] = np.asarray(rows[port.name]) if integers else floats(name, port, sizes, rng)
    return result | past(name, result, sizes, attributes, rng)
