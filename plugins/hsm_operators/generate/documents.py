"""The tables of docs/opset.md: what a specification says of an operator, between marks in the operator's section."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ..operator import BOOL, FLOAT, INT64, UINT8, Attribute, Dimension, Operator, Port, State

_START = "<!-- Written by `python -m hsm_operators.generate` from the specification; changes are lost. -->"
_END = "<!-- end -->"
_TYPES = {"T": "T", FLOAT: "float32", INT64: "int64", BOOL: "bool", UINT8: "uint8"}
_ROLLBACK = {
    "position": "moving the position back takes tokens back",
    "slots": "moving the position back takes back as many tokens as it has spare slots",
    "snapshot": "only a copy taken before takes tokens back",
}


def updated(document: str, operators: Iterable[Operator]) -> str:
    """Return a document with the operators' tables; one that has no section gets one at the end."""
    for operator in operators:
        heading, block = f"## {operator.name}\n", f"{_START}\n\n{_tables(operator)}\n{_END}\n"
        if heading not in document:
            document += f"\n{heading}\n{operator.description}\n\n{block}"
            continue
        before, _, rest = document.partition(heading)
        section, following = _split(rest)
        document = before + heading + _with_block(section, block) + following
    return document


def _split(text: str) -> tuple[str, str]:
    """Return a section's text, and what follows from the next heading on."""
    position = text.find("\n## ")
    return (text, "") if position < 0 else (text[: position + 1], text[position + 1 :])


def _with_block(section: str, block: str) -> str:
    start, end = section.find(_START), section.find(_END)
    if start < 0 or end < 0:
        return f"{section.rstrip()}\n\n{block}" + "\n" * section.endswith("\n\n")
    return section[:start] + block.rstrip("\n") + section[end + len(_END) :]


def _tables(operator: Operator) -> str:
    parts = [
        _table(("input", "type", "shape", ""), map(_port, operator.inputs)),
        _table(("output", "type", "shape", ""), map(_port, operator.outputs)),
    ]
    if operator.attributes:
        parts.append(_table(("attribute", "type", "range", ""), map(_attribute, operator.attributes)))
    parts.append(
        "".join(
            textwrap.fill(fact, 120, initial_indent="- ", subsequent_indent="  ") + "\n" for fact in _facts(operator)
        )
    )
    return "\n".join(part for part in parts if part)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(line).rstrip() + " |\n" for line in lines)


def _port(port: Port) -> tuple[str, ...]:
    return f"`{port.name}`", _TYPES[port.type], f"({', '.join(port.shape)})", port.description


def _attribute(attribute: Attribute) -> tuple[str, ...]:
    return f"`{attribute.name}`", attribute.type, _range(attribute.least, attribute.most), attribute.description


def _range(least: int | None, most: int | None) -> str:
    if (least, most) == (0, 1):
        return "0 or 1"
    if least is None or most is None:
        return f"≥ {least}" if least is not None else f"≤ {most}" if most is not None else "any"
    return f"{_number(least)} … {_number(most)}"


def _number(value: int) -> str:
    is_power = value > 65535 and value & (value - 1) == 0
    return f"2^{value.bit_length() - 1}" if is_power else str(value)


def _facts(operator: Operator) -> Iterator[str]:
    limited = [size for size in operator.sizes.values() if (size.least, size.most) != (0, Dimension.most)]
    for size in limited:
        words = size.words or size.field
        yield f"{words[0].upper()}{words[1:]} {size.name}: {_range(size.least, size.most)}."
    if operator.rules:
        yield f"Must hold: {'; '.join(f'`{rule.condition}`' for rule in operator.rules)}."
    for port in operator.inputs:
        if port.rows:
            where = f" in rows where `{port.rows.where}` is positive" if port.rows.where else " in every row"
            yield f"`{port.name}` is {re.sub(r' = {[^}]*}', '', port.rows.words)}{where}."
    yield from map(_state, operator.states)
    if operator.constant:
        yield f"A kernel may pack a constant `{operator.constant}` once."
    if operator.cost:
        yield f"Operations for each token: {operator.cost.formula}."


def _state(state: State) -> str:
    place = ", in the same buffer where a kernel runs" if state.in_place else ""
    limit = f"; it holds at most {state.capacity} tokens" if state.capacity else ""
    return f"State: `{state.past}` becomes `{state.present}`{place}{limit}; {_ROLLBACK[state.rollback]}."
