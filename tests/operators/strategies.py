"""Draws cases of operators for hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from tests.operators.cases import trial
from tests.operators.inputs import row_range, sizes_of

from hsm_operators import OPERATORS, Attribute, Operator, expression
from hsm_operators.case import adjustments
from hsm_operators.operator import UINT8
from hsm_operators.testing import Trial

_SMALL = st.integers(1, 4)
# The largest numbers of attributes that have no bound of their own: of lists, and alone.
_MOST = {"ints": 20, "int": 4}
# Blocks, and their bytes: a width is their product, and as small as those of other operators.
_OF_A_WIDTH = st.integers(1, 2)
# Attributes that are floats, which ONNX stores in float32.
_FACTORS = st.floats(0.125, 1, width=32)


@st.composite
def cases(draw: st.DrawFn, name: str, widths: st.SearchStrategy[int] = _SMALL) -> Trial:
    """Draw sizes, attributes, positions and lengths that fit each other; `widths` are those of channels and heads."""
    operator = OPERATORS[name]
    attributes = {attribute.name: draw(_values(attribute)) for attribute in operator.attributes}
    sizes = {dim: draw(_SMALL if dim in ("B", "H") else widths) for dim in sorted(operator.sizes)}
    if any(port.type == UINT8 for port in operator.inputs):
        sizes |= {dim: draw(_OF_A_WIDTH) for dim in ("G", "R")}
    sizes["T"] = draw(st.integers(1, 12) | st.sampled_from([127, 128, 129, 200]))
    sizes |= _choices(draw, operator, sizes | attributes)
    sizes = sizes_of(name, sizes, attributes)
    ranges = {port.name: row_range(port, sizes, attributes) for port in operator.inputs if port.rows}
    per_row = {
        key: st.lists(st.integers(*span), min_size=sizes["B"], max_size=sizes["B"]) for key, span in ranges.items()
    }
    return trial(name, sizes, attributes, {key: draw(strategy) for key, strategy in per_row.items()})


def _values(attribute: Attribute) -> st.SearchStrategy[Any]:
    if attribute.type == "float":
        return _FACTORS
    most = _MOST[attribute.type] if attribute.most is None else attribute.most
    numbers = st.integers(-most if attribute.least is None else attribute.least, most)
    return st.lists(numbers, min_size=1, max_size=4) if attribute.type == "ints" else numbers


def _choices(draw: st.DrawFn, operator: Operator, values: Mapping[str, Any]) -> dict[str, int]:
    """Return sizes that satisfy one part, which is drawn, of each rule that says "or"."""
    found = {}
    for rule in operator.rules:
        if " or " in rule.condition:
            part = replace(rule, condition=draw(st.sampled_from(rule.condition.split(" or "))))
            for dimension, text in adjustments(replace(operator, rules=(part,))):
                found[dimension] = expression.evaluate(text, values)
    return found
