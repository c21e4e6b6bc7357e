"""The operator table in C++ is the one in Python."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from tests.plugins.native import built

from hsm_operators import DOMAIN, OPERATORS, VERSION, Port


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    done = subprocess.run([built("hsm_dump_opset")], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_domain_version_and_names(table: dict[str, Any]) -> None:
    assert (table["domain"], table["version"]) == (DOMAIN, VERSION)
    assert sorted(item["name"] for item in table["operators"]) == sorted(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_signature(table: dict[str, Any], name: str) -> None:
    (native,) = (item for item in table["operators"] if item["name"] == name)
    operator = OPERATORS[name]
    assert native["inputs"] == [_port(value) for value in operator.inputs]
    assert native["outputs"] == [_port(value) for value in operator.outputs]
    assert native["attributes"] == [{"name": a.name, "type": a.type} for a in operator.attributes]


def _port(value: Port) -> dict[str, str]:
    assert all(len(dim) == 1 for dim in value.shape)
    return {"name": value.name, "type": value.type, "dims": "".join(value.shape)}
