"""Write the JSON Schemas of the documents that other programs read, from the types that hsm-export reads them with."""

from __future__ import annotations

import json
from pathlib import Path

from hsm_export.diffing.results import DiffResult
from hsm_export.formats.bundle_manifest import Manifest
from hsm_export.formats.document import schema_of
from hsm_export.formats.quantisation_plan import QuantisationPlan

FOLDER = Path(__file__).resolve().parent.parent / "exporter" / "hsm_export" / "formats"
# A bundle with libraries is of schema 2, one without of schema 1.
_CONSISTENT = {
    "if": {"properties": {"schema": {"const": 2}}},
    "then": {"required": ["libraries"], "properties": {"libraries": {"minItems": 1}}},
    "else": {"properties": {"libraries": False}},
}


def schemas() -> dict[str, str]:
    """Return the text of every schema by the name of its file."""
    manifest = schema_of(
        Manifest,
        "Manifest of an hsm-bundle, schemas 1 and 2",
        "manifest.json of a bundle of hsm-export; docs/bundle.md says what a reader checks beyond this schema.",
    )
    diff = schema_of(
        DiffResult,
        "Result of hsm-export diff",
        "What `hsm-export diff --json` prints; docs/diffing.md explains it.",
        whole=True,
    )
    plan = schema_of(
        QuantisationPlan,
        "Plan of hsm-export quantize",
        "How each weight of a quantised file is stored, and what that costs; docs/quantising.md explains it.",
        whole=True,
    )
    found = {
        "manifest.schema.gen.json": {**manifest, **_CONSISTENT},
        "diff.schema.gen.json": diff,
        "quantisation.schema.gen.json": plan,
    }
    return {name: json.dumps(schema, indent=1) + "\n" for name, schema in found.items()}


if __name__ == "__main__":
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
