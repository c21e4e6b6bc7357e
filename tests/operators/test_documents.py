"""The tables of the operators' reference are written into their sections, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

from hsm_operators import OPERATORS, Attribute
from hsm_operators.generate.documents import updated

DOCUMENT = """# Operators

Before.

## TokenShift

Prose of it.

## Versions

After.
"""
TOKEN_SHIFT, CAUSAL = OPERATORS["TokenShift"], OPERATORS["CausalTaylorShift"]


def _without_tables(document: str) -> str:
    lines, inside = [], False
    for line in document.splitlines():
        inside = inside or line.startswith("<!-- Written")
        if not inside:
            lines.append(line)
        inside = inside and line != "<!-- end -->"
    return "\n".join(lines)


def test_a_section_gets_its_tables_and_keeps_its_prose() -> None:
    document = updated(DOCUMENT, [TOKEN_SHIFT])
    assert [line for line in _without_tables(document).splitlines() if line] == [
        line for line in DOCUMENT.splitlines() if line
    ]
    section = document[document.index("## TokenShift") : document.index("## Versions")]
    assert "| `x` | T | (B, T, D) |" in section
    assert "| `shifts` | ints | any |" in section
    assert "`D % len(shifts) == 0`" in section


def test_tables_are_replaced_where_they_are() -> None:
    document = updated(DOCUMENT, [TOKEN_SHIFT])
    assert updated(document, [TOKEN_SHIFT]) == document
    attribute = Attribute("span", "int", "How far.", 2, 2**20)
    changed = updated(document, [replace(TOKEN_SHIFT, attributes=(*TOKEN_SHIFT.attributes, attribute))])
    assert "| `span` | int | 2 … 2^20 | How far. |" in changed
    assert changed.count("<!-- end -->") == 1
    assert _without_tables(changed) == _without_tables(document)


def test_an_operator_without_a_section_gets_one_at_the_end() -> None:
    document = updated(DOCUMENT, [CAUSAL])
    section = document[document.index("## CausalTaylorShift") :]
    assert CAUSAL.description in section
    assert "Head width d: 1 … 2^20." in section
    assert "`lengths` is from 0 to T in every row." in section
    assert "State: `norm` becomes `norm_out`" in section
    assert CAUSAL.cost is not None
    assert CAUSAL.cost.formula in section
