"""Whatever a manifest says, reading it ends with a manifest or with one sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.exporter.bundling.hostile import MANIFEST

from hsm_export.errors import BadInputError
from hsm_export.formats.bundle_manifest import Manifest, parse_manifest

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values inside a JSON value, itself left out."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [inner for key, item in items for inner in ((*path, key), *places(item, (*path, key)))]


@pytest.fixture(scope="module")
def manifest(good: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((good / MANIFEST).read_text())
    return data


@given(data=st.data(), replacement=JSON_VALUES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere(manifest: dict[str, Any], data: st.DataObject, replacement: Any) -> None:
    changed = copy.deepcopy(manifest)
    *path, last = data.draw(st.sampled_from(places(manifest)))
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = replacement
    taken_or_refused(json.dumps(changed).encode())


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_byte_anywhere(good: Path, data: st.DataObject) -> None:
    text = bytearray((good / MANIFEST).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    taken_or_refused(bytes(text))


@given(st.binary(max_size=64))
@settings(max_examples=100, deadline=None)
def test_any_bytes(data: bytes) -> None:
    taken_or_refused(data)


def taken_or_refused(data: bytes) -> None:
    """Read a manifest, which may be refused with one printable sentence and in no other way."""
    try:
        assert isinstance(parse_manifest(data, "manifest.json"), Manifest)
    except BadInputError as error:
        assert error.message.isprintable() and len(error.message) < 600


def test_written_and_read_again(good: Path) -> None:
    read = parse_manifest((good / MANIFEST).read_bytes(), "manifest.json")
    assert parse_manifest(read.to_json().encode(), "manifest.json") == read
