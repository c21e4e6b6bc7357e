"""The plugins in TensorRT's real lean runtime, version 11: it loads the library and makes plugins without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
from tests.exporter.building.test_operators import SIGNATURES
from tests.plugins.tensorrt.library import PLUGINS, converse, plugin_library

import hsm_operators

pytest.importorskip("tensorrt_lean", reason="TensorRT's lean runtime is not installed (tensorrt-lean-cu13)")

Fields = list[list[Any]]


def fields_of(name: str, kind: str) -> Fields:
    attributes = SIGNATURES[name][2]
    return [[key, kind, value if isinstance(value, list) else [value]] for key, value in attributes.items()]


WRONG: dict[str, tuple[str, Fields]] = {
    "nothing": ("ShiftMix", []),
    "another name": ("ShiftMix", [["shift", "INT64", [1]]]),
    "another type": ("ShiftMix", [["shifts", "FLOAT32", [1.0]]]),
    "no values": ("ShiftMix", [["shifts", "INT64", []]]),
    "a value out of range": ("TaylorShift", [["normalize", "INT64", [1]], ["output_norm", "INT64", [7]]]),
    "half of the attributes": ("TaylorShift", [["normalize", "INT64", [1]]]),
    "two values for one": ("ExpertMatMul", [["k", "INT64", [1, 2]]]),
}


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases: dict[str, tuple[str, Fields]] = dict(WRONG)
    for name in PLUGINS:
        for kind in ("INT32", "INT64"):
            cases[f"{name} {kind}"] = (name, fields_of(name, kind))
    job = {"library": str(plugin_library()), "cases": cases}
    result: dict[str, Any] = converse("create_plugins.py", job, tmp_path_factory.mktemp("lean"))
    return result


def test_it_is_another_major_version_than_the_headers(answer: dict[str, Any]) -> None:
    assert int(answer["version"].split(".")[0]) >= 11


def test_every_creator_is_listed_with_its_attributes(answer: dict[str, Any]) -> None:
    assert answer["creators"] == {
        name: {"version": hsm_operators.PLUGIN_VERSION, "fields": [a.name for a in operator.attributes]}
        for name, operator in PLUGINS.items()
    }


@pytest.mark.parametrize("kind", ["INT32", "INT64"])
@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_is_made_from_its_serialised_fields(answer: dict[str, Any], name: str, kind: str) -> None:
    assert answer["cases"][f"{name} {kind}"] == "PLUGIN_V3ONE_RUNTIME"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_and_missing_fields_are_refused(answer: dict[str, Any], name: str) -> None:
    assert answer["cases"][name] is None


def test_the_library_can_be_unloaded(answer: dict[str, Any]) -> None:
    assert answer["left"] == []
