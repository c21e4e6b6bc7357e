"""The JSON form: it comes back as it was, its schema says the same as its reader, and strangers' files are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.exporter.diffing import synthetic

from hsm_export.diffing.reporting import read_json, write_json
from hsm_export.errors import BadInputError

SCHEMA: dict[str, Any] = json.loads((files("hsm_export.formats") / "diff.schema.gen.json").read_text())
RESULTS = {
    "empty": synthetic.result,
    "passing": synthetic.passing,
    "failing": synthetic.failing,
    "hostile": synthetic.hostile,
}


def _set(*path: str | int) -> Callable[[dict[str, Any], Any], None]:
    def change(data: Any, value: Any) -> None:
        for place in path[:-1]:
            data = data[place]
        data[path[-1]] = value

    return change


# name: (change, value, what the error says)
DAMAGES: dict[str, tuple[Callable[[dict[str, Any], Any], None], Any, str]] = {
    "another-schema": (_set("schema"), 2, "has schema 2; this version reads 1"),
    "schema-as-text": (_set("schema"), "1", "has schema '1'"),
    "schema-as-truth": (_set("schema"), True, "has schema True"),
    "unknown-field": (_set("extra"), 1, "has an unknown field 'extra'"),
    "unknown-field-deep": (_set("environment", "extra"), 1, "environment has an unknown field 'extra'"),
    "runtimes-as-object": (_set("runtimes"), {}, "runtimes must be a list"),
    "runtime-as-text": (_set("runtimes", 0), "ort", r"runtimes\[0\] must be an object"),
    "verdict": (_set("runtimes", 0, "verdict"), "fine", r"runtimes\[0\].verdict must be one of"),
    "verdict-as-list": (_set("runtimes", 0, "verdict"), [], r"runtimes\[0\].verdict must be text"),
    "precision": (_set("precision"), "int8", r"precision must be one of .*'fp32'"),
    "number-as-text": (_set("seconds"), "12", "seconds must be a number"),
    "number-as-truth": (_set("seconds"), True, "seconds must be a number"),
    "number-as-list": (_set("seconds"), [], "seconds must be a number"),
    "whole-number": (_set("runtimes", 0, "flips"), 1.5, r"runtimes\[0\].flips must be a whole number"),
    "whole-number-as-truth": (_set("runtimes", 0, "flips"), True, r"runtimes\[0\].flips must be a whole number"),
    "truth-as-number": (_set("passed"), 1, "passed must be true or false"),
    "text-as-null": (_set("model"), None, "model must be text"),
    "text-as-number": (_set("cases", 1), 7, r"cases\[1\] must be text"),
    "shape": (_set("runtimes", 0, "outputs", 0, "shape", 1), "x", r"outputs\[0\].shape\[1\] must be a whole number"),
    "map": (_set("environment", "versions", "torch"), 2, r"environment.versions\['torch'\] must be text"),
    "map-as-list": (_set("environment", "versions"), [], "environment.versions must be an object"),
    "pair": (_set("bisections", 0, "nodes", 0), ["one"], r"bisections\[0\].nodes\[0\] must be a list of length 2"),
}


def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(synthetic.failing().to_dict()))
    return data


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", RESULTS)
def test_round_trip(tmp_path: Path, name: str) -> None:
    """The very dataclasses come back; `repr`, because a NaN is not equal to itself."""
    result = RESULTS[name]()
    write_json(result, tmp_path / "report.json")
    assert repr(read_json(tmp_path / "report.json")) == repr(result)


@pytest.mark.parametrize("name", RESULTS)
def test_schema_accepts(tmp_path: Path, name: str) -> None:
    write_json(RESULTS[name](), tmp_path / "report.json")
    jsonschema.validate(json.loads((tmp_path / "report.json").read_text()), SCHEMA)


def test_what_json_has_no_number_for(tmp_path: Path) -> None:
    write_json(synthetic.hostile(), tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert '"nan"' in text and '"-inf"' in text and "NaN" not in text and "Infinity" not in text
    (layer,) = read_json(tmp_path / "report.json").runtimes[0].layers
    assert layer.own is not None and math.isnan(layer.own) and layer.total == math.inf


def test_what_the_command_prints_is_read_too(tmp_path: Path) -> None:
    """`--json` prints the same data, with indents."""
    result = synthetic.failing()
    (tmp_path / "report.json").write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    assert read_json(tmp_path / "report.json") == result


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_by_reader_and_schema(tmp_path: Path, name: str) -> None:
    change, value, message = DAMAGES[name]
    data = _data()
    change(data, value)
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(BadInputError, match=message) as caught:
        read_json(tmp_path / "report.json")
    assert caught.value.hint and "\n" not in caught.value.message
    # To JSON Schema, 1.0 and true are 1 only where Python says so: `const` knows the difference.
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(data)


@pytest.mark.parametrize("field", ["sha256", "runtimes", "schema", "complete"])
def test_missing_field_is_refused(tmp_path: Path, field: str) -> None:
    data = _data()
    del data[field]
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(BadInputError):
        read_json(tmp_path / "report.json")
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(data)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", "null", '{"schema": 1}', "[" * 100_000, '{"runtimes": NaN, "schema": 1}', "\ufeff{}"],
    ids=["empty", "cut", "list", "number", "null", "foreign", "deep", "nan", "mark"],
)
def test_other_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError):
        read_json(tmp_path / "report.json")


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="not valid JSON"):
        read_json(tmp_path / "report.json")


def test_number_beyond_float_is_refused(tmp_path: Path) -> None:
    data = _data()
    data["seconds"] = 10**400
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(BadInputError, match="seconds is too large"):
        read_json(tmp_path / "report.json")


def test_huge_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "report.json").open("wb") as file:
        file.truncate(257 * 2**20)
    with pytest.raises(BadInputError, match="too large"):
        read_json(tmp_path / "report.json")


def test_schema_names_what_the_dataclasses_hold() -> None:
    data = _data()
    examples = {"DiffResult": data, "RuntimeDiff": data["runtimes"][1], "LayerDiff": data["runtimes"][1]["layers"][0]}
    for name, example in examples.items():
        assert SCHEMA["$defs"][name]["required"] == list(example)
