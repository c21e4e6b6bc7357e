"""The function `diff_files`: what changed from one ONNX file to another, in structure, weights and numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import StructureDiff

if TYPE_CHECKING:
    from ...validation.cases import Shape


def diff_files(
    old: str | Path,
    new: str | Path,
    runtimes: Sequence[str] | None = None,
    *,
    inputs: str | Path | Mapping[str, Any] | None = None,
    shapes: Sequence[Shape] | None = None,
    tokenizer: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> StructureDiff:
    """Compare two ONNX files, and what they make of equal inputs.

    Args:
        old, new: the files.
        runtimes: what runs the new file, beside its maths in float64; None means ONNX Runtime.
        inputs: an .npz file, a mapping of arrays, or text for a language model; None chooses.
        shapes: of chosen inputs: (batch, length), or sizes of dimensions by name.
        tokenizer: a tokenizer.json for text.
        progress: receives the name of each phase.

    Raises:
        BadInputError: a file is missing or damaged, the inputs cannot be used, or the old file does not run.
        UsageError: an unknown runtime, or options that contradict each other.
        MissingDependencyError: a runtime does not work here.
    """
    from ...onnx_model.model_file import open_model
    from .numbers import DEFAULT_RUNTIMES, compare_numbers
    from .structure import diff_structure

    start = time.perf_counter()
    result = diff_structure(old, new, progress=progress)
    numbers = compare_numbers(
        open_model(old),
        open_model(new),
        runtimes=runtimes or DEFAULT_RUNTIMES,
        inputs=inputs,
        shapes=shapes,
        tokenizer=tokenizer,
        progress=progress,
    )
    return replace(
        result,
        outputs=numbers.outputs,
        incomparable=numbers.incomparable,
        notes=result.notes + numbers.notes,
        seconds=time.perf_counter() - start,
    )
