"""The evaluator's operators that are ours, against ONNX Runtime."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxruntime
from hsm_export.runtimes.borrowing import BorrowingEvaluator
from hsm_export.runtimes.evaluator import operators

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("operator", "shapes", "attributes"),
    [
        ("LRN", [(1, 7, 5, 5)], {"size": 3, "alpha": 0.5}),
        ("LRN", [(2, 6, 3, 3)], {"size": 5, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
        ("LogSoftmax", [(3, 4, 5)], {"axis": 1}),
        ("MeanVarianceNormalization", [(2, 3, 4, 5)], {}),
        ("MeanVarianceNormalization", [(2, 3, 4)], {"axes": [2]}),
        ("Conv", [(2, 4, 9, 11), (6, 4, 3, 3)], {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
        ("Conv", [(2, 4, 9, 11), (6, 2, 4, 3), (6,)], {"group": 2, "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("Conv", [(2, 4, 9), (6, 4, 4)], {"auto_pad": "SAME_UPPER", "strides": [2]}),
        ("Conv", [(1, 2, 5, 4, 5), (3, 2, 4, 2, 2)], {"auto_pad": "VALID"}),
        ("Conv", [(2, 4, 9, 11), (6, 4, 3, 3)], {"pads": [1, 1, 1, 1]}),
        ("ConvTranspose", [(2, 4, 5, 6), (4, 3, 3, 2)], {"pads": [1, 0, 2, 1], "strides": [2, 3]}),
        ("ConvTranspose", [(2, 4, 5), (4, 3, 3), (6,)], {"group": 2, "strides": [3], "output_padding": [2]}),
        ("ConvTranspose", [(2, 4, 5, 5), (4, 3, 3, 3)], {"dilations": [2, 1], "strides": [1, 2]}),
        ("MaxPool", [(2, 3, 9, 11)], {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ("MaxPool", [(2, 3, 9)], {"kernel_shape": [3], "dilations": [2], "ceil_mode": 1, "strides": [3]}),
        ("MaxPool", [(1, 2, 5, 5, 5)], {"kernel_shape": [2, 2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", [(2, 3, 9, 11)], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0], "strides": [2, 1]}),
        ("AveragePool", [(2, 3, 9, 11)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("AveragePool", [(2, 3, 9, 11)], {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "ceil_mode": 1}),
        ("AveragePool", [(2, 3, 7)], {"kernel_shape": [4]}),
        ("GlobalMaxPool", [(2, 3, 7)], {}),
        ("GlobalMaxPool", [(2, 3, 5, 4)], {}),
        ("GlobalMaxPool", [(1, 2, 3, 4, 5)], {}),
        ("AveragePool", [(2, 3, 7, 9)], {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        (
            "AveragePool",
            [(1, 2, 7, 9)],
            {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [3, 2], "ceil_mode": 1, "count_include_pad": 1},
        ),
    ],
)
def test_is_what_onnx_says(operator: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    feeds = {name: floats(*shape) for name, shape in zip("xwb", shapes, strict=False)}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in feeds.items()]
    node = helper.make_node(operator, list(feeds), ["y"], **attributes)
    graph = helper.make_graph([node], "one", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feeds)
    (found,) = ReferenceEvaluator(model, new_ops=operators()).run(None, feeds)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("opset", [9, 13, 17])
@pytest.mark.parametrize("attributes", [{}, {"momentum": 0.8}, {"momentum": 0.9, "epsilon": 0.01}])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_batch_norms_of_files_of_any_age_do_not_train(opset: int, attributes: dict[str, Any], shape: Any) -> None:
    feeds = {"x": floats(*shape)} | {name: floats(3) for name in ("scale", "bias", "mean")}
    feeds["var"] = np.square(floats(3)) + np.float32(0.1)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in feeds.items()]
    node = helper.make_node("BatchNormalization", list(feeds), ["y"], **attributes)
    graph = helper.make_graph([node], "one", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feeds)
    (found,) = ReferenceEvaluator(model, new_ops=operators(0, opset)).run(None, feeds)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_logarithm_of_a_softmax_is_finite() -> None:
    (op,) = [item for item in operators() if item.__name__ == "LogSoftmax"]
    (y,) = op._run(None, np.array([[0.0, -2000.0]]), axis=-1)
    assert y.tolist() == [[0.0, -2000.0]]


@pytest.mark.parametrize("channels", [0, 3])
def test_quantised_numbers_of_older_files(channels: int) -> None:
    shape = [channels] if channels else []
    scale = np.abs(floats(*shape)).astype(np.float64)
    zero = np.full(shape, 3, np.uint8)
    (op,) = [item for item in operators(opset=17) if (item.op_domain, item.__name__) == ("", "DequantizeLinear")]
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (y,) = op._run(None, x, scale, zero, axis=1)  # type: ignore[arg-type]
    spread = scale.reshape(3, 1) if channels else scale
    np.testing.assert_array_equal(y, (x.astype(float) - 3) * spread)
    named = [(item.op_domain, item.__name__) for item in operators(opset=19)]
    assert ("", "DequantizeLinear") not in named


def test_results_are_dropped_after_their_last_reader() -> None:
    """A chain of forty results holds a few at a time, and what an inner graph reads late is there."""
    size, count = 1 << 18, 40
    x = helper.make_tensor_value_info("x0", TensorProto.DOUBLE, [size])
    nodes = [helper.make_node("Neg", [f"x{place}"], [f"x{place + 1}"]) for place in range(count)]
    inner = helper.make_graph(
        [helper.make_node("Add", ["x3", "x5"], ["sum"])],
        "inner",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.DOUBLE, [size])],
    )
    nodes.append(helper.make_node("If", ["yes"], ["late"], then_branch=inner, else_branch=inner))
    outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [size]) for name in ("x2", f"x{count}", "late")]
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    graph = helper.make_graph(nodes, "chain", [x], outputs, [yes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    evaluator = BorrowingEvaluator(model, new_ops=operators())
    feed = np.arange(size, dtype=np.float64)
    tracemalloc.start()
    second, last, late = evaluator.run(None, {"x0": feed})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(second, feed) and np.array_equal(last, feed) and np.array_equal(late, -2 * feed)
    # x2, x3 and x5 are held, and of the chain what a node reads and writes; the sum comes last.
    assert peak < 8 * feed.nbytes
