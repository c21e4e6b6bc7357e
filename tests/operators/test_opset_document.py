"""docs/opset.md describes the operators as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsm_operators import OPERATORS, Port

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "opset.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| \((.*?)\) \|", re.MULTILINE)


def _sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _type(value: Port) -> str:
    return {"T": "T", "tensor(float)": "float32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}[value.type]


def test_every_operator_has_a_section_and_no_section_is_left_over() -> None:
    assert set(_sections()) == {"Rules for all operators", "Versions", *OPERATORS}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_section_says_more_than_the_specification(name: str) -> None:
    prose, _, _ = _sections()[name].partition("<!--")
    assert len(prose.split()) > 5


@pytest.mark.parametrize("name", OPERATORS)
def test_a_section_names_every_input_output_and_attribute(name: str) -> None:
    operator, section = OPERATORS[name], _sections()[name]
    for item in (*operator.inputs, *operator.outputs, *operator.attributes):
        assert f"`{item.name}`" in section


@pytest.mark.parametrize("name", OPERATORS)
def test_the_tables_have_the_signatures_types_and_shapes(name: str) -> None:
    values = {value.name: value for value in (*OPERATORS[name].inputs, *OPERATORS[name].outputs)}
    for row_name, row_type, row_shape in ROW.findall(_sections()[name]):
        value = values[row_name]
        assert (row_type, tuple(row_shape.split(", "))) == (_type(value), value.shape)
