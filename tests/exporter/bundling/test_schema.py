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
    "cpu-variant-that-is-a-link", "cpu-variant-that-is-not-listed", "decoding-of-any-vocabulary",
    "decoding-with-one-position", "decoding-without-lengths", "decoding-without-logits", "engine-of-a-missing-part",
    "engine-that-is-not-listed", "engine-twice", "engine-whose-profile-shrinks",
    "engine-with-embedded-plugins-and-none", "engine-without-side-file", "file-twice", "input-twice",
    "library-called-as-ours", "library-of-another-adapter", "library-of-the-cpu-that-is-cudas", "library-twice",
    "manifest-lists-itself", "model-is-not-listed", "name-twice", "no-model-at-all",
    "outputs-that-the-manifest-keeps-quiet-about", "shared-library", "shared-library-as-an-engine",
    "shared-library-by-another-name", "signed-half-of-a-model", "signed-nothing-in-place-of-a-model",
    "signed-text-in-place-of-a-model", "state-described-twice", "state-left-out", "state-of-slots-without-an-axis",
    "state-that-grows-elsewhere", "state-that-the-model-lacks", "state-whose-capacity-is-no-axis",
    "state-without-a-batch", "swapped-files", "too-large", "versioned-shared-library", "weights-at-an-absolute-path",
    "weights-of-a-node-outside", "weights-outside", "weights-that-are-not-there", "windows-library", "wrong-size",
    "wrong-sum",
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
