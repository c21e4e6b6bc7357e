"""The operator table that the libraries were built with is the specifications'."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from tests.plugins.native import built

from hsm_operators import DOMAIN, OPERATORS, VERSION, Operator, Port


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, Any]]:
    done = subprocess.run([built("hsm_dump_opset")], capture_output=True, text=True, check=True)
    return {item["name"]: item for item in json.loads(done.stdout)}


def test_names_domain_and_version(table: dict[str, dict[str, Any]]) -> None:
    assert sorted(table) == sorted(OPERATORS)
    assert {(item["domain"], item["version"]) for item in table.values()} == {(DOMAIN, VERSION)}


@pytest.mark.parametrize("name", OPERATORS)
def test_signature(table: dict[str, dict[str, Any]], name: str) -> None:
    native, operator = table[name], OPERATORS[name]
    assert native["inputs"] == [_port(value) for value in operator.inputs]
    assert native["outputs"] == [_port(value) for value in operator.outputs]
    assert native["attributes"] == _attributes(operator)


@pytest.mark.parametrize("name", OPERATORS)
def test_ranges_rules_and_in_place_pairs(table: dict[str, dict[str, Any]], name: str) -> None:
    native, operator = table[name], OPERATORS[name]
    sizes = operator.sizes.values()
    assert native["dimensions"] == [{"name": d.name, "least": d.least, "most": d.most} for d in sizes]
    assert native["in_place"] == [list(pair) for pair in operator.in_place.items()]
    assert native["rules"] == len(operator.rules)


def _port(value: Port) -> dict[str, Any]:
    return {"name": value.name, "type": value.type, "dims": list(value.shape)}


def _attributes(operator: Operator) -> list[dict[str, Any]]:
    least, most = -(2**63), 2**63 - 1
    return [
        {
            "name": a.name,
            "type": a.type,
            "least": least if a.least is None else a.least,
            "most": most if a.most is None else a.most,
        }
        for a in operator.attributes
    ]
