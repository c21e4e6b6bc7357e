"""Write the JSON Schemas of documents that other programs read: `python -m hsm_export.formats`."""

from __future__ import annotations

import json
from pathlib import Path

from .bundle_manifest import Manifest
from .document import schema_of

FOLDER = Path(__file__).resolve().parent
_CONSISTENT = {  # schema 2 has libraries, schema 1 has none
    "if": {"properties": {"schema": {"const": 2}}},
    "then": {"required": ["libraries"], "properties": {"libraries": {"minItems": 1}}},
    "else": {"properties": {"libraries": False}},
}


def schemas() -> dict[str, str]:
    """Return the text of every schema by the name of its file in this folder."""
    manifest = schema_of(
        Manifest,
        "Manifest of an hsm-bundle, schemas 1 and 2",
        "manifest.json of a bundle of hsm-export; docs/bundle.md says what a reader checks beyond this schema.",
    )
    return {"manifest.schema.gen.json": json.dumps({**manifest, **_CONSISTENT}, indent=1) + "\n"}


if __name__ == "__main__":
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
