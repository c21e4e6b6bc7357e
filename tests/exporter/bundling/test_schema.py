"""The published JSON Schema says what the reader says."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.exporter.bundling.hostile import CASES, HARMLESS, MANIFEST, write

SCHEMA: dict[str, Any] = json.loads((files("hsm_export.formats") / "manifest.schema.gen.json").read_text())
# What a schema cannot say about a manifest whose types and names are right, though the reader refuses it: what the
# folder holds, what contradicts something else, and names that are meant for people's eyes.
BEYOND = {
    "cpu-variant-that-is-a-link", "cpu-variant-that-is-not-listed",
    "name-twice", "file-twice", "model-is-not-listed", "no-model-at-all", "input-twice", "too-large",
    "engine-of-a-missing-part", "engine-that-is-not-listed", "engine-twice", "engine-whose-profile-shrinks",
    "engine-with-embedded-plugins-and-none", "engine-without-side-file", "manifest-lists-itself", "shared-library",
    "versioned-shared-library", "windows-library", "shared-library-by-another-name", "shared-library-as-an-engine",
    "library-twice", "library-of-another-adapter", "library-of-the-cpu-that-is-cudas", "library-called-as-ours",
    "state-of-slots-without-an-axis", "state-that-grows-elsewhere", "state-that-the-model-lacks",
    "state-whose-capacity-is-no-axis", "state-without-a-batch", "swapped-files", "wrong-size", "wrong-sum",
}  # fmt: skip


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", HARMLESS)
def test_accepted(good: Path, tmp_path: Path, name: str) -> None:
    folder = write(good, tmp_path / "bundle.hsm", HARMLESS[name])
    jsonschema.validate(json.loads((folder / MANIFEST).read_text()), SCHEMA)


def test_real_bundle(language_bundle: Path) -> None:
    jsonschema.validate(json.loads((language_bundle / MANIFEST).read_text()), SCHEMA)


@pytest.mark.parametrize("name", CASES)
def test_refused(good: Path, tmp_path: Path, name: str) -> None:
    """A hostile manifest that is JSON at all is invalid, unless only the folder or the whole shows it."""
    folder = write(good, tmp_path / "bundle.hsm", CASES[name])
    original = (good / MANIFEST).read_text()
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        text = path.read_text()
        manifest = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(manifest)
    assert valid == (text == original or name in BEYOND)
