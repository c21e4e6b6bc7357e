"""What a diff does besides comparing outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .rules import DEFAULT


@dataclass(frozen=True)
class DiffOptions:
    """What a diff does besides comparing outputs.

    Attributes:
        layers: compare every layer; None compares them where an output differs.
        bisect: find the smallest set of nodes that makes an output fail.
        generate: tokens that language models generate greedily; 0 for none. None means 32, none for large models.
        fail_on: rules (see `rules`).
        baseline: an older report (JSON) to say what got worse.
        repro: folder for the nodes at fault; None writes none.
        polygraphy: folder for inputs and outputs in Polygraphy's format; None writes none.
        max_seconds, max_bytes: caps on time and on resident memory; the report then says how far it came.
        command: how the report says that it was made.
    """

    layers: bool | None = None
    bisect: bool = False
    generate: int | None = None
    fail_on: Sequence[str] = DEFAULT
    baseline: str | Path | None = None
    repro: str | Path | None = None
    polygraphy: str | Path | None = None
    max_seconds: float | None = None
    max_bytes: int | None = None
    command: str = ""
