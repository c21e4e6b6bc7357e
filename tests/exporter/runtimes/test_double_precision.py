"""Promotion to float64: nothing of a lower precision may be left anywhere in the graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from hsm_export.runtimes import get
from hsm_export.runtimes.double_precision import promote
from hsm_export.runtimes.runtime import RunContext


def _run(model: onnx.ModelProto, feed: dict[str, np.ndarray], folder: Path = Path()) -> np.ndarray:
    with get("onnx64").runner(RunContext(model, folder, "fp32")) as runner:
        return next(iter(runner.infer(feed).values()))


def _unary(op: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["n"])],
        [helper.make_tensor_value_info("y", kind, ["n"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_erf_is_accurate_to_double_precision(kind: int) -> None:
    x = np.concatenate([np.linspace(-7, 7, 4001), np.logspace(-20, 1, 300), [0.0, np.inf, -np.inf]])
    x = x.astype(np.float16 if kind == TensorProto.FLOAT16 else np.float32)
    expected = np.array([math.erf(value) for value in x])
    result = _run(_unary("Erf", kind), {"x": x})
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-15, atol=1e-300)
    assert np.isnan(_run(_unary("Erf"), {"x": np.array([np.nan], np.float32)}))


def test_gelu_is_accurate_to_double_precision() -> None:
    x = np.random.default_rng(11).standard_normal(500).astype(np.float32) * 4
    expected = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.astype(float)]
    np.testing.assert_allclose(_run(_unary("Gelu"), {"x": x}), expected, rtol=1e-13, atol=1e-15)


def test_casts_and_constants_and_scan_bodies_are_promoted() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float16[n] x) => (float16[n] y)
        {
          xf = Cast <to = 1> (x)
          c = Constant <value_float = 0.3> ()
          cs = Constant <value_floats = [0.7]> ()
          t = Constant <value = float {1.5}> ()
          start = Constant <value = float {0.0}> ()
          last, sums = Scan <num_scan_inputs = 1, body = add (float s, float e) => (float s2, float o) {
            step = Constant <value_float = 0.01> ()
            e1 = Add (e, step)
            s1 = Add (s, e1)
            half = Cast <to = 10> (s1)
            s2 = Cast <to = 1> (half)
            o = Identity (s2)
          }> (start, xf)
          a = Mul (sums, c)
          b = Add (a, cs)
          d = Add (b, t)
          wf = Cast <to = 1> (w)
          shape = Shape (d)
          zeros = ConstantOfShape (shape)
          d2 = Add (d, zeros)
          e2 = Mul (d2, wf)
          y = Cast <to = 10> (e2)
        }""")
    model.graph.initializer.append(numpy_helper.from_array(np.float16([0.1]), "w"))
    x = np.random.default_rng(11).standard_normal(9).astype(np.float16)
    single = lambda value: float(np.float32(value))  # noqa: E731
    sums = np.cumsum(x.astype(float) + single(0.01))
    expected = (sums * single(0.3) + single(0.7) + 1.5) * float(np.float16(0.1))
    np.testing.assert_allclose(_run(model, {"x": x}), expected, rtol=1e-14)
    promoted, _ = promote(model, Path())
    assert not set(_types(promoted.graph)) & {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def _types(graph: onnx.GraphProto) -> Iterator[int]:
    """Yield every tensor type that a graph names."""
    yield from (value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info))
    yield from (tensor.data_type for tensor in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to":
                yield attribute.i
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t.data_type
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _types(attribute.g)


def test_large_weights_and_external_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    weight = rng.standard_normal((64, 40)).astype(np.float16)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 40])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    x = rng.standard_normal((3, 64)).astype(np.float16)
    np.testing.assert_allclose(
        _run(model, {"x": x}, tmp_path), x.astype(float) @ weight.astype(float), rtol=1e-12, atol=1e-12
    )


def test_operator_that_onnx_runtime_lacks_in_double() -> None:
    rng = np.random.default_rng(11)
    weight = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 3, 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    patches = x.astype(float).reshape(2, 3, 3, 2, 3, 2)
    expected = np.einsum("bciujv,ocuv->boij", patches, weight.astype(float))
    result = _run(model, {"x": x})
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)
