"""Sequences among a graph's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import hsm_export
from hsm_export.runtimes.named_outputs import named_outputs


def test_a_sequence_becomes_numbered_arrays() -> None:
    one, two = np.zeros(2), np.ones(3)
    found = named_outputs(["a", "s", "none"], [one, [one, two], []])
    assert list(found) == ["a", "s.length", "s[0]", "s[1]", "none.length"]
    assert found["s[1]"] is two
    assert (int(found["s.length"]), int(found["none.length"])) == (2, 0)


def test_maps_become_arrays() -> None:
    found = named_outputs(["z"], [[{10: 0.25, 20: 0.75}]])
    assert {name: array.tolist() for name, array in found.items()} == {
        "z.length": 1,
        "z[0].keys": [10, 20],
        "z[0].values": [0.25, 0.75],
    }


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_sequences_are_compared(tmp_path: Path, kind: int) -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("SplitToSequence", ["t"], ["s"], axis=0)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [3, 2])],
        [helper.make_tensor_sequence_value_info("s", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    result = hsm_export.validate(tmp_path / "m.onnx", runtimes=["ort"])
    assert result.passed
    assert {item.output for item in result.runtimes[-1].worst} == {"s.length", "s[0]", "s[1]", "s[2]"}
