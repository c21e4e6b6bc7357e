"""A state made for one row is none for two: the evaluator would repeat it, and runtimes refuse it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hsm_export import validate

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def model(operator: str, rows: int) -> onnx.ModelProto:
    """Return a layer from 3 to 4 numbers that starts from a constant state for so many rows."""
    rng = np.random.default_rng(0)
    shapes = {"w": (1, GATES[operator] * 4, 3), "r": (1, GATES[operator] * 4, 4), "h": (1, rows, 4)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), name) for name, s in shapes.items()]
    states = ["h", "h"] if operator == "LSTM" else ["h"]
    node = helper.make_node(operator, ["x", "w", "r", "", "", *states], ["y"], name="layer", hidden_size=4)
    x, y = (helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["t", "b", 3]), ("y", None)))
    graph = helper.make_graph([node], "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("operator", sorted(GATES))
def test_only_sizes_of_the_state_are_tried(operator: str, rows: int, tmp_path: Path) -> None:
    onnx.save(model(operator, rows), tmp_path / "m.onnx")
    if rows == 1:
        result = validate(tmp_path / "m.onnx", runtimes=["ort"])
    else:
        result = validate(tmp_path / "m.onnx", runtimes=["ort"], shapes=[{"t": 5, "b": 2}])
    assert result.passed, result.summary
