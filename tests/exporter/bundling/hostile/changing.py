"""How good bundles are spoiled, and the list of all ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"

Case = Callable[[Path], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a function that spoils the bundle in a folder; its name is the case's."""
    CASES[function.__name__.strip("_").replace("_", "-")] = function
    return function


def read(bundle: Path) -> dict[str, Any]:
    """Return a manifest."""
    data: dict[str, Any] = json.loads((bundle / MANIFEST).read_text())
    return data


def rewrite(bundle: Path, manifest: Any) -> None:
    """Write a manifest."""
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest."""
    manifest = read(bundle)
    change(manifest)
    rewrite(bundle, manifest)


def add(bundle: Path, name: str, data: bytes) -> None:
    """Add a file together with a right entry in the manifest."""
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(bundle, lambda manifest: manifest["files"].update({name: entry}))


def rename_entry(bundle: Path, old: str, new: str) -> None:
    """Give a file another name in the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][new] = manifest["files"].pop(old)

    edit(bundle, change)
