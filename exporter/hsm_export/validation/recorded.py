"""A run that somebody else recorded, such as the author's own model: its inputs are the case, its outputs are judged.

The outputs are held to the bar that every runtime is held to: the arbiter's numbers, and twice the error of native
precision on these very inputs, for the rounding of whoever recorded them is as large as ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.bar import Bar
from ..errors import BadInputError, UsageError
from ..onnx_model.model_file import ModelFile
from .cases import Case
from .given_inputs import read_npz
from .results import Comparison, RuntimeReport

Array = NDArray[Any]
NAME = "recorded run"
_PLACE = re.compile(r"(input|output)_(\d+)")
_LEAST_BITS = 32


def read_run(file: ModelFile, path: str | Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the inputs and the outputs of a recorded run, under the file's names.

    Args:
        file: the opened file, in fp32 or fp64.
        path: an .npz archive with arrays named as the file's inputs and outputs, or input_0, output_0, … in order.

    Raises:
        BadInputError: it cannot be read, or has arrays missing, left over, or in half precision.
        UsageError: the file is in another precision, or decodes.
    """
    if file.decodes or file.precision not in ("fp32", "fp64"):
        raise UsageError(
            "a recorded run is compared with a file in fp32 that reads whole sequences",
            "export it without --decode and --precision",
        )
    arrays, where = read_npz(Path(path))
    found: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
    named = {"input": [spec.name for spec in file.inputs], "output": [item.name for item in file.model.graph.output]}
    for name, array in arrays.items():
        role, known = _place(name, named)
        if known is None or known in found[role]:
            raise BadInputError(
                f"{where}: the array {name} belongs to no input or output; the file has the inputs "
                f"{', '.join(named['input'])} and the outputs {', '.join(named['output'])}",
                "name arrays as these, or input_0, …, output_0, … in their order",
            )
        found[role][known] = array
    missing = [name for name in named["input"] if name not in found["input"]]
    if missing or not found["output"]:
        lacks = ", ".join(missing) or f"any output: {', '.join(named['output'])}"
        raise BadInputError(f"{where} lacks {lacks}", "docs/importing.md shows how to record a run")
    for name, array in found["output"].items():
        if array.dtype.kind == "V" or (array.dtype.kind == "f" and array.dtype.itemsize * 8 < _LEAST_BITS):
            raise BadInputError(f"{where}: {name} is {array.dtype}, too coarse to prove anything", "record float32")
    return found["input"], found["output"]


def judge_run(outputs: Mapping[str, Array], case: Case, bars: Mapping[str, Bar], precision: str) -> RuntimeReport:
    """Hold recorded outputs to the bars of their inputs."""
    comparisons = [_compare(name, value, case, bars[name], precision) for name, value in outputs.items()]
    failed = [item for item in comparisons if not item.passed]
    worst = max(failed, key=lambda item: item.severity) if failed else None
    return RuntimeReport(
        NAME,
        "failed" if failed else "passed",
        1,
        max_abs_error=max(item.errors.max_abs for item in comparisons),
        worst=tuple(comparisons),
        reason=worst.line() if worst else None,
    )


def _compare(name: str, value: Array, case: Case, bar: Bar, precision: str) -> Comparison:
    found = bar.judge(np.asarray(value), None, precision)
    return Comparison(
        runtime=NAME,
        output=name,
        case=case.name,
        input_shapes=case.shapes,
        shape=tuple(bar.reference.shape),
        errors=found.errors,
        threshold=bar.threshold,
        reason=found.reason,
    )


def _place(name: str, named: Mapping[str, Sequence[str]]) -> tuple[str, str | None]:
    """Return whether an array is an input or an output, and the file's name of it; None for a stranger."""
    for role, names in named.items():
        if name in names:
            return role, name
    match = _PLACE.fullmatch(name)
    if match is None:
        return "input", None
    names, place = named[match[1]], int(match[2])
    return match[1], names[place] if place < len(names) else None
