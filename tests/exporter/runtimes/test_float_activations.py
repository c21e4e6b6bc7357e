"""Weights behind DequantizeLinear: files of others are judged as ONNX Runtime runs them, ours keep floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hsm_export
from hsm_export.runtimes.session import cpu_session

K, N = 64, 16


@pytest.fixture
def model() -> onnx.ModelProto:
    """A product with weights in blocks of 32 numbers of four bits."""
    rng = np.random.default_rng(7)
    weights = [
        helper.make_tensor("w", TensorProto.INT4, [K, N], rng.integers(-8, 8, K * N).tolist()),
        numpy_helper.from_array((rng.random((2, N)) * 0.01 + 0.005).astype(np.float32), "scales"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scales"], ["wide"], "wide", axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "wide"], ["y"], "product"),
    ]
    borders = [helper.make_tensor_value_info(*item) for item in (("x", 1, ["n", K]), ("y", 1, ["n", N]))]
    graph = helper.make_graph(nodes, "g", borders[:1], borders[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_ours_keep_floats(model: onnx.ModelProto) -> None:
    x = np.random.default_rng(8).standard_normal((4, K)).astype(np.float32)

    def run(**options: bool) -> np.ndarray:
        (y,) = cpu_session(model, Path(), **options).run(None, {"x": x})
        return np.asarray(y)

    exact, rounded = run(float_activations=True), run()
    assert np.abs(exact - rounded).max() > 1e-3 * np.abs(exact).max()
    model.metadata_props.add(key="hsm_export.quantisation", value="{}")
    np.testing.assert_array_equal(run(), exact)


def test_a_file_of_others_that_is_rounded_to_8_bits_is_told(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    result = hsm_export.diff(tmp_path / "m.onnx", ["ort"], options=hsm_export.DiffOptions(layers=True))
    assert not result.passed
    assert any("product (MatMul) is the first node at fault" in culprit.line for culprit in result.culprits)
