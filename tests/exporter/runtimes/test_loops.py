"""Loop and Scan of the evaluator against ONNX Runtime: no condition, no passes, axes and directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxruntime
from hsm_export.runtimes import get
from hsm_export.runtimes.runtime import RunContext

LOOP = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[n, 3] x, {inputs}) => (float[n, 3] y, float[k] sums, float[k, n, 3] states) {{
    y, sums, states = Loop ({most}, {condition}, x) <
        body = step (int64 i, bool going, float[n, 3] state)
            => (bool again, float[n, 3] next, float sum, float[n, 3] kept) {{
            half = Constant <value = float {{0.5}}> ()
            next = Mul(state, half)
            sum = ReduceSum <keepdims = 0> (next)
            least = Constant <value = float {{0.2}}> ()
            again = Greater(sum, least)
            kept = Identity(next)
        }}
    >
}}
"""
SCAN = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[a, t, b] x, float[t] w, float[a, b] start) => (float[a, b] last, float[p, q, r] all, float[t] each) {
    last, all, each = Scan <
        num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
        scan_output_axes = [-1, 0], scan_output_directions = [1, 0],
        body = step (float[a, b] state, float[a, b] row, float weight)
            => (float[a, b] next, float[a, b] out, float mean) {
            scaled = Mul(row, weight)
            next = Add(state, scaled)
            out = Identity(next)
            mean = ReduceMean <keepdims = 0> (next)
        }
    > (start, x, w)
}
"""


def both(model: onnx.ModelProto, folder: Path, feed: dict[str, Any]) -> None:
    """Hold the evaluator to ONNX Runtime: values, shapes and types."""
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    right = session.run(None, feed)
    with get("onnx-reference").runner(RunContext(model, folder, "fp32")) as runner:
        found = runner.infer(feed, check_inputs=False)
    for value, expected in zip(found.values(), right, strict=True):
        assert np.shape(value) == np.shape(expected)
        assert np.asarray(value).dtype == np.asarray(expected).dtype
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("most", [0, 1, 4, None])
@pytest.mark.parametrize("condition", [True, False, None])
def test_loop(most: int | None, condition: bool | None, tmp_path: Path) -> None:
    names = {"most": most, "condition": condition}
    given = {name: value for name, value in names.items() if value is not None}
    inputs = ", ".join({"most": "int64 most", "condition": "bool condition"}[name] for name in given)
    text = LOOP.format(inputs=inputs, **{name: name if name in given else '""' for name in names})
    if not inputs:
        text = text.replace("x, )", "x)")
    feed = {"x": np.linspace(1, 2, 6, dtype=np.float32).reshape(2, 3)}
    both(parser.parse_model(text), tmp_path, feed | {name: np.array(value) for name, value in given.items()})


@pytest.mark.parametrize("steps", [1, 5])
def test_scan_along_axes_and_backwards(steps: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"x": (2, steps, 3), "w": (steps,), "start": (2, 3)}
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    both(parser.parse_model(SCAN), tmp_path, feed)
