"""ONNX Runtime's own operators have a float64 definition here, which its kernels keep to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.exporter.runtimes.contrib_cases import Call, calls

from hsm_export.diffing import DiffOptions, diff
from hsm_export.runtimes import get, onnx_runtime

CALLS = list(calls())


@pytest.mark.parametrize("make", [make for _, make in CALLS], ids=[name for name, _ in CALLS])
def test_kernels_keep_to_the_definition(make: Callable[[], Call], tmp_path: Path) -> None:
    path, feed = make().save(tmp_path)
    result = diff(path, ["ort", "ort:level=0"], inputs=feed, options=DiffOptions(layers=True, generate=0))
    assert result.passed, result.summary
    assert not [note for note in result.notes if "nobody but ONNX Runtime" in note], result.notes
    for report in result.runtimes:
        assert report.layers
        assert all(item.own is not None and item.passed for item in report.layers)


def test_an_operator_that_nobody_defines_is_compared_with_itself_and_the_report_says_so(tmp_path: Path) -> None:
    words, scale = np.random.default_rng(0).standard_normal((11, 8)).astype(np.float32), np.ones(8, np.float32)
    inputs = {"ids": np.int32([[1, 5, 10]]), "s": None, "ww": words, "wp": words[:4], "wt": None, "wg": scale}
    path, feed = Call("EmbedLayerNormalization", inputs | {"wb": scale}, 2).save(tmp_path)
    result = diff(path, ["ort"], inputs=feed, options=DiffOptions(layers=True, generate=0))
    assert result.passed, result.summary
    assert any("nobody but ONNX Runtime computes node (EmbedLayerNormalization)" in note for note in result.notes)


def test_a_wrong_kernel_of_an_operator_of_theirs_is_named(tmp_path: Path) -> None:
    """Nothing of the definition comes from the kernel: another scale in the file that the runtime gets is seen."""
    path, feed = dict(CALLS)["MatMulNBits 4"]().save(tmp_path)
    healthy = get("ort")

    def runner(context: Any) -> Any:
        changed = onnx.ModelProto.FromString(context.model.SerializeToString())
        for tensor in changed.graph.initializer:
            if tensor.name == "ws":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.001), "ws"))
        return healthy.runner(replace(context, model=changed))

    with mock.patch.object(onnx_runtime, "ORT", replace(healthy, runner=runner)):
        result = diff(path, ["ort"], inputs=feed, options=DiffOptions(layers=True, generate=0))
    (culprit,) = result.culprits
    assert (culprit.layer.node, culprit.word) == ("node", "wrong kernel")
