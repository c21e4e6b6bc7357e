"""The JSON Schemas in the package are those of the types."""

from __future__ import annotations

import jsonschema
import pytest

from tools import write_schemas

SCHEMAS = write_schemas.schemas()


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_that_of_its_types(name: str) -> None:
    written = (write_schemas.FOLDER / name).read_text()
    assert written == SCHEMAS[name], "run `python tools/write_schemas.py`"


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in write_schemas.FOLDER.glob("*.json")} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    import json

    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMAS[name]))
