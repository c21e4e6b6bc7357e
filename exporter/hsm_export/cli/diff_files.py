"""`diff OLD NEW`: what changed from one file to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .console import emit, phases

# Options of `diff MODEL` that mean nothing for two files.
_OTHERS = {
    "against": "--against",
    "reference": "--reference",
    "layers": "--layers",
    "bisect": "--bisect",
    "fail_on": "--fail-on",
    "baseline": "--baseline",
    "html": "--html",
    "junit": "--junit",
    "save": "--save",
    "node_data": "--node-data",
    "repro": "--repro",
    "polygraphy": "--polygraphy",
    "precision_plan": "--precision-plan",
    "target_error": "--target-error",
    "max_seconds": "--max-seconds",
    "max_memory": "--max-memory",
}


def compare_files(
    old: str, new: str, runtimes: tuple[str, ...] | None, shapes: Any, options: Mapping[str, Any], as_json: bool
) -> None:
    """Compare two files and print what changed.

    Raises:
        UsageError: options that belong to the diff of one file.
        NumbersDifferError: the outputs differ by more than rounding.
        NotJudgedError: the outputs could not be compared.
    """
    from ..diffing.files.api import diff_files
    from ..diffing.files.rendering import render_structure, structure_markdown
    from ..errors import NotJudgedError, NumbersDifferError, UsageError
    from ..files import atomic_path

    for name, option in _OTHERS.items():
        if options[name] not in (None, False, ()):
            raise UsageError(f"{option} belongs to the diff of one file", "leave it out, or name one file")
    with phases("diff") as progress:
        result = diff_files(
            old,
            new,
            runtimes,
            inputs=options["inputs"],
            shapes=shapes,
            tokenizer=options["tokenizer"],
            progress=progress,
        )
    if options["markdown"]:
        with atomic_path(options["markdown"]) as scratch:
            scratch.write_text(structure_markdown(result), encoding="utf-8")
    emit(result, as_json, render_structure)
    if result.incomparable:
        raise NotJudgedError(result.summary, "docs/diffing.md says which files can be compared")
    if not result.passed:
        raise NumbersDifferError(result.summary, "docs/diffing.md says how two files are compared")
