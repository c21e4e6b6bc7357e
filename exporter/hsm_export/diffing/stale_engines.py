"""Engines beside a file that were built from an older one of that name."""

from __future__ import annotations

from pathlib import Path

from ..errors import HsmExportError
from ..files import sha256
from ..formats.engine_file import read_side_file

_MOST = 100  # engines that are looked at


def stale_engines(model: Path) -> tuple[str, ...]:
    """Return a sentence for every engine in a file's folder whose side file names another file of the same name.

    A diff builds engines of its own, so their numbers say nothing about those that a program would load.
    """
    found = []
    for side_file in sorted(model.parent.glob("*.engine.json"))[:_MOST]:
        engine = side_file.with_suffix("")
        try:
            source = read_side_file(engine).source
        except HsmExportError:
            continue  # not an engine of ours
        name, recorded = source.file, source.sha256
        own = sha256(model) if name == model.name else recorded
        if own != recorded:
            found.append(
                f"{engine} was built from another {name}: with SHA-256 {recorded[:12]}…, not {own[:12]}…: a stale "
                "engine; build it again"
            )
    return tuple(found)
