"""Operators of ours in onnx's evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxruntime
from hsm_export.runtimes.evaluator import operators


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_elements_are_gathered_from_more_than_64(axis: int) -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((100, 3, 90)).astype(np.float32)
    indices = rng.integers(-data.shape[axis], data.shape[axis], data.shape)
    graph = helper.make_graph(
        [helper.make_node("GatherElements", ["data", "indices"], ["y"], axis=axis)],
        "graph",
        [
            helper.make_tensor_value_info("data", TensorProto.FLOAT, data.shape),
            helper.make_tensor_value_info("indices", TensorProto.INT64, indices.shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, indices.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    feed = {"data": data, "indices": indices}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (mine,) = ReferenceEvaluator(model, new_ops=operators()).run(None, feed)
    np.testing.assert_array_equal(mine, session.run(None, feed)[0])
