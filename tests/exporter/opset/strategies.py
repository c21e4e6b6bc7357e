"""Draws cases of operators for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from tests.exporter.opset.cases import Case

from hsm_operators import OPERATORS

_SMALL = st.integers(1, 4)
_WIDTHS = ("D", "d", "e", "f")


@st.composite
def cases(draw: st.DrawFn, name: str, widths: st.SearchStrategy[int] = _SMALL) -> Case:
    """Draw sizes, attributes, positions and lengths that fit each other; `widths` are those of channels and heads."""
    operator = OPERATORS[name]
    names = {dim for value in (*operator.inputs, *operator.outputs) for dim in value.shape} - {"F"}
    sizes = {dim: draw(widths if dim in _WIDTHS else _SMALL) for dim in sorted(names)}
    sizes["T"] = draw(st.integers(1, 12) | st.sampled_from([127, 128, 129, 200]))
    attributes: dict[str, Any] = {a.name: draw(st.integers(0, 1)) for a in operator.attributes}
    if "shifts" in attributes:
        (shifts,) = (attribute for attribute in operator.attributes if attribute.name == "shifts")
        least = -20 if shifts.least is None else shifts.least
        attributes["shifts"] = draw(st.lists(st.integers(least, 20), min_size=1, max_size=4))
        sizes["D"] *= len(attributes["shifts"])
    if "R" in sizes:
        sizes["R"] = max(1, *attributes["shifts"]) + draw(st.integers(0, 5))
    if "k" in attributes:
        attributes["k"] = draw(st.integers(1, sizes["E"]))
    least = 1 if name == "TaylorShiftMasked" else 0
    per_row = {"position": st.integers(0, 50), "lengths": st.integers(least, sizes["T"])}
    rows = {
        value.name: draw(st.lists(per_row[value.name], min_size=sizes["B"], max_size=sizes["B"]))
        for value in operator.inputs
        if value.name in per_row
    }
    return Case(name, sizes, attributes, rows)
