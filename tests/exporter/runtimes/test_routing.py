"""Instrumentation of expert operators: their logits come out, and a mask decides for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hsm_export.runtimes import get
from hsm_export.runtimes.routing import RoutedNode, instrument
from hsm_export.runtimes.runtime import RunContext
from hsm_operators import functions_for, make_node

B, T, D, H, E, F, K = 2, 5, 6, 2, 4, 3, 2


def routed_model(weight: np.ndarray) -> onnx.ModelProto:
    """Return x (B,T,D), logits (B,T,H,E) -> ExpertMatMul -> y (B,T,H,F)."""
    node = make_node("ExpertMatMul", ["x", "logits", "w"], ["y"], "layers.0.mixer.source", k=K)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", D]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", H, E]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", H, F])],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("hsm", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model.functions.extend(functions_for(model))
    return model


def expected(x: np.ndarray, logits: np.ndarray, weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the sum over the experts in `mask` of sigmoid(logit) x W, in float64."""
    gates = np.where(mask, 1 / (1 + np.exp(-logits.astype(float))), 0)
    return np.einsum("bthe,btd,hedf->bthf", gates, x.astype(float), weight.astype(float))


@pytest.mark.parametrize("name", ["ort", "onnx-reference", "onnx64"])
def test_logits_come_out_and_a_mask_decides(name: str) -> None:
    rng = np.random.default_rng(11)
    x = rng.standard_normal((B, T, D)).astype(np.float32)
    logits = rng.standard_normal((B, T, H, E)).astype(np.float32)
    weight = rng.standard_normal((H, E, D, F)).astype(np.float32)
    model, routed = instrument(routed_model(weight))
    assert routed == (RoutedNode("layers.0.mixer.source", K),)
    onnx.checker.check_model(model)
    node = routed[0]
    other = node.selection(-logits)  # the two least likely experts
    with get(name).runner(RunContext(model, Path(), "fp32", routed=routed)) as runner:
        for given, chosen in [(node.free_mask(), node.selection(logits)), (other, other)]:
            outputs = runner.infer({"x": x, "logits": logits, node.mask: given})
            np.testing.assert_array_equal(outputs[node.logits], logits)
            np.testing.assert_allclose(outputs["y"], expected(x, logits, weight, chosen), rtol=1e-5, atol=1e-5)


def test_selection_breaks_ties_by_the_lower_index() -> None:
    chosen = RoutedNode("n", 2).selection(np.array([[[[1.0, 2.0, 2.0, 2.0]]]]))
    assert chosen.tolist() == [[[[False, True, True, False]]]]


def test_model_without_experts_stays_as_it_is() -> None:
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [], [])
    model = helper.make_model(graph)
    same, routed = instrument(model)
    assert same is model
    assert routed == ()


def test_the_given_model_is_not_changed() -> None:
    model = routed_model(np.ones((H, E, D, F), np.float32))
    before = model.SerializeToString()
    instrument(model)
    assert model.SerializeToString() == before
