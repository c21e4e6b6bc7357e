"""Runs one-node models with the fused kernels, as the tests of operators run their bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tests.operators.cases import trial
from tests.operators.harness import ANY_ATTRIBUTES
from tests.operators.inputs import row_range, sizes_of

import onnxruntime
from hsm_export.native import CUSTOM_OPS, find_library, register
from hsm_operators import OPERATORS
from hsm_operators.testing import Subject, Trial

Array = npt.NDArray[Any]

needs_library = pytest.mark.skipif(
    find_library(CUSTOM_OPS) is None, reason=f"this installation has no {CUSTOM_OPS}; `hsm-export doctor` says why"
)


def fused_session(model: onnx.ModelProto, threads: int = 1, profile: Path | None = None) -> Any:
    """Return a session with the fused kernels; `profile` is the prefix of the profile's path."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    register(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def case_of(name: str, batch: int = 2, length: int = 7, **sizes: int) -> Trial:
    """A case with unequal lengths; sizes that are not given are the small case's."""
    attributes = ANY_ATTRIBUTES[name]
    complete = sizes_of(name, {**sizes, "B": batch, "T": length}, attributes)
    spans = {port.name: row_range(port, complete, attributes) for port in OPERATORS[name].inputs if port.rows}
    # The most, half of it and the least.
    rows = {key: [most, max(most // 2, least), least][:batch] for key, (least, most) in spans.items()}
    return trial(name, complete, attributes, rows)


def feed(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return inputs as a model with a float32 border takes them."""
    return {name: array if array.dtype.kind in "iu" else array.astype(np.float32) for name, array in inputs.items()}


def run_fused(model: onnx.ModelProto, inputs: Mapping[str, Array], threads: int = 1) -> list[Array]:
    result: list[Array] = fused_session(model, threads).run(None, feed(inputs))
    return result


def executed(session: Any) -> list[str]:
    """End a session's profile; return the types of the operators whose kernels ran, in order."""
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]


def same_within_lengths(name: str, inputs: Mapping[str, Array], one: Sequence[Array], other: Sequence[Array]) -> None:
    """Padding is unspecified; everything else has the same bits."""
    subject = Subject.own(name)
    for port, left, right in zip(subject.operator.outputs, one, other, strict=True):
        pair = (subject.without_padding(port, array, inputs) for array in (left, right))
        np.testing.assert_array_equal(*pair, err_msg=name)
