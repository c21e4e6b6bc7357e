"""Verdicts on healthy and on hopeless models: approximations, sums, masks, random numbers, cancellation, quanta."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.exporter.diffing.plain_models import NODE

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.diffing.remarks import quantum_of
from hsm_export.diffing.results import DiffResult

FLOAT, RNG = TensorProto.FLOAT, np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def compared(
    folder: Path,
    nodes: list[onnx.NodeProto],
    x: np.ndarray[Any, Any],
    weights: dict[str, Any] | None = None,
    kind: int = FLOAT,
    opset: int = 20,
) -> DiffResult:
    """Run `diff --layers` of a model from x to y in ONNX Runtime."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    infos = [
        helper.make_tensor_value_info("x", kind, x.shape),
        helper.make_tensor_value_info("y", kind, None),
    ]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), str(path))
    return diff(path, ["ort"], inputs={"x": x}, options=DiffOptions(layers=True))


@pytest.mark.parametrize(
    ("operator", "low", "high"),
    [("Sigmoid", -9, -4), ("Tanh", -1e-3, 1e-3), ("Erf", -1e-2, 1e-2), ("Elu", -1e-3, 0), ("Softplus", -9, -5),
     ("Gelu", -5, -3), ("LogSoftmax", -40, 40), ("Mish", -9, -5)],
)  # fmt: skip
def test_approximations_of_functions_are_no_fault(operator: str, low: float, high: float, tmp_path: Path) -> None:
    x = np.linspace(low, high, 512, dtype=np.float32).reshape(4, 128)
    result = compared(tmp_path, [NODE(operator, ["x"], ["y"], "function")], x)
    assert result.passed, result.summary


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean", "ReduceSumSquare", "GlobalAveragePool"])
def test_orders_of_long_sums_are_no_fault(operator: str, tmp_path: Path) -> None:
    result = compared(tmp_path, [NODE(operator, ["x"], ["y"], "sum")], np.abs(floats(1, 2, 300, 300)))
    assert result.passed, result.summary


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_networks_are_judged_and_pass(operator: str, gates: int, tmp_path: Path) -> None:
    weights = {"w": floats(1, gates * 8, 4), "r": floats(1, gates * 8, 8) * 0.4}
    result = compared(
        tmp_path, [NODE(operator, ["x", "w", "r"], ["y"], "cell", hidden_size=8)], floats(12, 2, 4), weights
    )
    assert result.passed, result.summary
    (layer,) = result.runtimes[0].layers
    assert layer.own is not None


def test_two_masks_are_legal(tmp_path: Path) -> None:
    mask = np.where(np.tri(5, dtype=bool), 0, np.finfo(np.float32).min).astype(np.float32)
    nodes = [
        NODE("Add", ["x", "mask"], ["once"], "once"),
        NODE("Add", ["once", "mask"], ["twice"], "twice"),
        NODE("Softmax", ["twice"], ["y"], "weights"),
    ]
    result = compared(tmp_path, nodes, floats(3, 5, 5), {"mask": mask})
    assert result.passed, result.summary
    assert any("twice (Add) overflows where a mask did" in note for note in result.runtimes[0].notes)


def test_infinite_outputs_are_equal_or_wrong(tmp_path: Path) -> None:
    mask = np.where(np.tri(5, dtype=bool), 0, -np.inf).astype(np.float32)
    result = compared(tmp_path, [NODE("Add", ["x", "mask"], ["y"], "scores")], floats(3, 5, 5), {"mask": mask})
    assert result.passed, result.summary


@pytest.mark.parametrize(
    ("node", "name"),
    [
        (NODE("Bernoulli", ["x"], ["y"], "coin"), "coin (Bernoulli)"),
        (NODE("RandomUniformLike", ["x"], ["y"], "noise", seed=1.0), "noise (RandomUniformLike)"),
        (NODE("Dropout", ["x", "half", "yes"], ["y"], "drop"), "drop (Dropout)"),
    ],
)
def test_random_numbers_judge_nobody(node: onnx.NodeProto, name: str, tmp_path: Path) -> None:
    weights = {"half": np.float32(0.5), "yes": np.array(True)} if node.op_type == "Dropout" else {}
    result = compared(tmp_path, [node], np.full((8, 8), 0.5, np.float32), weights)
    assert (result.passed, result.outcome) == (False, "not judged")
    assert name in result.summary


def test_a_dropout_that_does_nothing_is_judged(tmp_path: Path) -> None:
    weights = {"half": np.float32(0.5), "no": np.array(False)}
    assert compared(tmp_path, [NODE("Dropout", ["x", "half", "no"], ["y"], "drop")], floats(4, 4), weights).passed


def test_cancellation_is_a_word_at_its_node(tmp_path: Path) -> None:
    nodes = [
        NODE("Add", ["x", "far"], ["moved"], "move"),
        NODE("Sub", ["moved", "far"], ["back"], "difference"),
        NODE("Mul", ["back", "three"], ["y"], "scale"),
    ]
    result = compared(tmp_path, nodes, floats(4, 64), {"far": np.float32(4096), "three": np.float32(3)})
    assert result.passed, result.summary
    (warning,) = [item for item in result.warnings if "ill-conditioned" in item]
    assert "y is ill-conditioned" in warning and "difference (Sub)" in warning and "cancellation" in warning


def test_overflow_is_the_word_of_a_culprit(tmp_path: Path) -> None:
    nodes = [NODE("Mul", ["x", "x"], ["s"], "square"), NODE("Div", ["x", "s"], ["y"], "inverse")]
    result = compared(tmp_path, nodes, np.full((2, 4), 300, np.float16), kind=TensorProto.FLOAT16)
    (culprit,) = result.culprits
    assert (culprit.layer.node, culprit.word) == ("square", "overflow")
    assert "65504" in culprit.line and result.outcome == "failed"


def test_a_quantum_is_recognised() -> None:
    nodes = [
        NODE("QuantizeLinear", ["x", "step", "zero"], ["q"], "round"),
        NODE("Cast", ["q"], ["y"], "cast", to=FLOAT),
    ]
    weights = [numpy_helper.from_array(np.float32(0.08), "step"), numpy_helper.from_array(np.uint8(7), "zero")]
    infos = [helper.make_tensor_value_info(name, FLOAT, [4]) for name in "xy"]
    graph = LayerGraph(helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)))
    assert quantum_of(0.0800001, graph, Path()) == "round (QuantizeLinear)"
    assert quantum_of(0.07, graph, Path()) == ""


def test_a_weaker_arbiter_is_said_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hsm_export.runtimes import evaluator

    # The evaluator's own operator, which leaves out neighbours on one side.
    monkeypatch.setattr(evaluator, "operators", lambda *given: [])
    monkeypatch.setattr("hsm_export.runtimes.onnx_reference.operators", lambda *given: [])
    result = compared(tmp_path, [NODE("LRN", ["x"], ["y"], "norm", size=5)], floats(1, 20, 5, 5))
    assert any("onnx's own evaluator is the arbiter" in note for note in result.notes)
    assert any("onnx's evaluator errs in norm" in note for note in result.notes)
    assert not result.culprits
