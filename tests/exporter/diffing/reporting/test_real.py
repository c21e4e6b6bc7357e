"""Reports of real diffs: of a file that is right, and of one with a wrong weight."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from tests.exporter.validation.tiny import change_weight, flip_largest, plant_nan, tiny_model, write_tiny

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.reporting import markdown, read_json, write_html, write_json, write_junit
from hsm_export.diffing.results import DiffResult


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> DiffResult:
    path = write_tiny(tiny_model(), tmp_path_factory.mktemp("right") / "tiny.onnx")
    return diff(path, ("ort",), against=tiny_model(), options=DiffOptions(layers=True))


@pytest.fixture(scope="module", params=[flip_largest, plant_nan])
def wrong(right: DiffResult, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffResult:
    folder = tmp_path_factory.mktemp("wrong")
    path = write_tiny(tiny_model(), folder / "tiny.onnx")
    change_weight(path, "down", request.param)
    write_json(right, folder / "old.json")
    options = DiffOptions(layers=True, baseline=folder / "old.json", fail_on=("output", "regression", "error<0"))
    return diff(path, ("ort",), against=tiny_model(), options=options)


def check_every_format(result: DiffResult, folder: Path, word: str) -> None:
    """Write a result in every format; each must be valid and say the word, and JSON must come back the same."""
    write_json(result, folder / "report.json")
    schema = json.loads((files("hsm_export.formats") / "diff.schema.gen.json").read_text())
    jsonschema.validate(json.loads((folder / "report.json").read_text()), schema)
    assert repr(read_json(folder / "report.json")) == repr(result)
    write_html(result, folder / "report.html")
    write_junit(result, folder / "junit.xml")
    failures = ElementTree.parse(folder / "junit.xml").getroot().get("failures")
    assert (failures == "0") == (word == "PASSED")
    assert word in (folder / "report.html").read_text(encoding="utf-8") and word in markdown(result)


def test_right(right: DiffResult, tmp_path: Path) -> None:
    check_every_format(right, tmp_path, "PASSED")


def test_wrong(wrong: DiffResult, tmp_path: Path) -> None:
    check_every_format(wrong, tmp_path, "FAILED")
    assert not wrong.passed
    assert {item.what for item in wrong.regressions} >= {"verdict", "output"}
    assert [sentence.partition(":")[0] for sentence in wrong.violated][:2] == ["output", "regression"]
