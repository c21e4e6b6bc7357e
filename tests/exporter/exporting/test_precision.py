"""The rewrite to float16 and bfloat16, on small graphs written by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import onnxruntime
from hsm_export.errors import BadInputError
from hsm_export.exporting.precision import convert
from hsm_export.onnx_model.bfloat16 import widen_bfloat16
from hsm_operators import functions_for

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
PRECISIONS = {"fp16": (FLOAT16, np.float16), "bf16": (BFLOAT16, ml_dtypes.bfloat16)}


def graph(signature: str, body: str, **weights: NDArray[np.float32]) -> onnx.ModelProto:
    """Make a model from ONNX text; weights become initialisers."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21, "hsm": 1]> g {signature} {{ {body} }}')
    for name, value in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
    model.functions.extend(functions_for(model))
    model = onnx.shape_inference.infer_shapes(model)
    del model.functions[:]
    return model


def converted(model: onnx.ModelProto, precision: str, parameters: set[str] | None = None) -> onnx.ModelProto:
    """Rewrite a model, check it, and return it with all types inferred."""
    names = {tensor.name for tensor in model.graph.initializer}
    rewritten = ir.from_proto(model)
    convert(rewritten, precision, names if parameters is None else parameters)
    result = ir.to_proto(rewritten)
    result.functions.extend(functions_for(result))
    onnx.checker.check_model(result, full_check=True)
    return onnx.shape_inference.infer_shapes(result, strict_mode=True)


def node_types(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Return operator -> types of the tensors that it reads and writes, among the floating ones."""
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input)}
    types.update({value.name: value.type.tensor_type.elem_type for value in model.graph.output})
    types.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        used = {types[name] for name in (*node.input, *node.output) if name}
        found.setdefault(node.op_type, set()).update(used & {FLOAT, FLOAT16, BFLOAT16})
    return found


def run(model: onnx.ModelProto, **feed: NDArray[np.generic]) -> NDArray[np.float64]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(widen_bfloat16(model).SerializeToString(), options)
    result: NDArray[np.float64] = session.run(None, feed)[0].astype(np.float64)
    return result


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_and_activations_are_low_and_islands_are_not(precision: str) -> None:
    low = PRECISIONS[precision][0]
    rng = np.random.default_rng(1)
    model = graph(
        "(float[batch, length, 8] x) => (float[batch, length, 8] y)",
        """n = LayerNormalization<axis = -1, epsilon = 1e-5>(x, scale, bias)
           h = MatMul(n, w)
           r = Relu(h)
           t = Transpose<perm = [0, 2, 1]>(r)
           s = MatMul(r, t)
           m = Mul(s, small)
           p = Softmax(m)
           a = MatMul(p, r)
           y = Add(a, x)""",
        scale=rng.standard_normal(8),
        bias=rng.standard_normal(8),
        w=rng.standard_normal((8, 8)),
        small=np.float32(0.35),
    )
    result = converted(model, precision, {"scale", "bias", "w"})
    types = node_types(result)
    assert types["MatMul"] == types["Relu"] == types["Transpose"] == types["Add"] == {low}
    assert types["LayerNormalization"] == types["Softmax"] == types["Mul"] == {FLOAT}
    weights = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert weights["w"] == low and weights["scale"] == weights["bias"] == FLOAT

    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    exact = run(model, x=x)
    eps = float(ml_dtypes.finfo(PRECISIONS[precision][1]).eps)
    assert np.abs(run(result, x=x) - exact).max() < 8 * eps * np.abs(exact).max()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_rms_norm_in_pieces_survives_tiny_and_huge_values(precision: str) -> None:
    model = graph(
        "(float[batch, 4] x) => (float[batch, 4] y)",
        """h = Identity(x)
           q = Mul(h, h)
           m = ReduceMean<keepdims = 1>(q, last)
           e = Add(m, epsilon)
           r = Sqrt(e)
           i = Div(one, r)
           y = Mul(h, i)""",
        epsilon=np.float32(1e-12),
        one=np.float32(1.0),
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "last"))
    result = converted(model, precision, set())
    x = np.array([[3e4, -6e4, 1e4, 2e4], [1e-4, 2e-4, -3e-4, 0]], dtype=np.float32)
    eps = float(ml_dtypes.finfo(PRECISIONS[precision][1]).eps)
    # In float16 the squares of the first row would overflow, and those of the second vanish together with epsilon.
    np.testing.assert_allclose(run(result, x=x), run(model, x=x), rtol=2 * eps, atol=eps)


def test_an_epsilon_that_float16_would_lose_is_added_in_float32() -> None:
    model = graph(
        "(float[batch, 2] x, float[batch, 2] z) => (float[batch, 2] y)",
        """h = Relu(x)
           k = Relu(z)
           e = Max(k, epsilon)
           y = Div(h, e)""",
        epsilon=np.float32(1e-9),
    )
    result = converted(model, "fp16", set())
    zero = np.zeros((1, 2), dtype=np.float32)
    assert (run(result, x=zero, z=zero) == 0).all()


def test_constants_beyond_float16_become_its_largest_number() -> None:
    model = graph(
        "(float[batch, 3] x, bool[batch, 3] keep) => (float[batch, 3] y)",
        """h = Relu(x)
           y = Where(keep, h, mask)""",
        mask=np.float32(-1e30),
    )
    result = converted(model, "fp16", set())
    y = run(result, x=np.ones((1, 3), np.float32), keep=np.array([[True, False, True]]))
    assert y.tolist() == [[1.0, -65504.0, 1.0]]


def test_infinite_masks_before_a_softmax_stay_infinite() -> None:
    model = graph(
        "(float[batch, 3] x, bool[batch, 3] keep) => (float[batch, 3] y)",
        """h = Relu(x)
           s = Where(keep, h, mask)
           y = Softmax(s)""",
        mask=np.float32(-np.inf),
    )
    for precision in PRECISIONS:
        y = run(converted(model, precision, set()), x=np.ones((1, 3), np.float32), keep=np.array([[True, False, True]]))
        assert y.tolist() == [[0.5, 0.0, 0.5]]


def test_a_weight_beyond_float16_is_refused() -> None:
    model = graph("(float[batch, 1] x) => (float[batch, 1] y)", "y = MatMul(x, w)", w=np.array([[1e5]]))
    with pytest.raises(BadInputError, match=r"weight w holds 100000, but the largest float16 is 65504") as caught:
        converted(model, "fp16")
    assert caught.value.hint == "use --precision bf16, which has the range of float32"
    assert run(converted(model, "bf16"), x=np.ones((1, 1), np.float32))[0, 0] == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_routing_is_computed_in_float32_from_float32_weights(precision: str) -> None:
    low = PRECISIONS[precision][0]
    rng = np.random.default_rng(2)
    model = graph(
        "(float[batch, length, 4] x) => (float[batch, length, 1, 6] y)",
        """h = Relu(x)
           rt = Transpose<perm = [1, 0]>(router)
           r = MatMul(h, rt)
           logits = Unsqueeze(r, two)
           y = hsm.ExpertMatMul<k = 2, plugin_namespace = "hsm", plugin_version = "1">(h, logits, experts)""",
        router=rng.standard_normal((3, 4)),
        experts=rng.standard_normal((1, 3, 4, 6)),
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "two"))
    result = converted(model, precision, {"router", "experts"})
    types = node_types(result)
    assert types["MatMul"] == types["Transpose"] == types["Unsqueeze"] == {FLOAT}
    weights = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert weights["router"] == FLOAT and weights["experts"] == low


@pytest.mark.parametrize("precision", PRECISIONS)
def test_angles_of_positions_are_exact(precision: str) -> None:
    low = PRECISIONS[precision][0]
    model = graph(
        "(float[batch, length, 2] x) => (float[batch, length, 2] y)",
        """n = Shape<start = 1, end = 2>(x)
           ns = Squeeze(n)
           t = Range(zero, ns, one)
           f = Cast<to = 1>(t)
           c = Unsqueeze(f, axis)
           angle = Mul(c, frequency)
           turned = Cos(angle)
           h = Relu(x)
           y = Mul(h, turned)""",
        frequency=np.array([1.0, 0.01]),
    )
    for name, value in (("zero", 0), ("one", 1), ("axis", [1])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype=np.int64), name))
    model = onnx.shape_inference.infer_shapes(model)
    result = converted(model, precision, set())
    assert node_types(result)["Relu"] == {low}
    # Position 3001 is no bfloat16, and neither type holds its angle to better than a whole turn.
    x = np.ones((1, 3002, 2), dtype=np.float32)
    eps = float(ml_dtypes.finfo(PRECISIONS[precision][1]).eps)
    np.testing.assert_allclose(run(result, x=x), run(model, x=x), rtol=eps, atol=eps)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_subgraphs_stay_float32_and_capture_float32(precision: str) -> None:
    model = graph(
        "(float[2] x, bool flag) => (float[2] y)",
        """h = Mul(x, w)
           z = If (flag) <then_branch = a () => (float[2] u) { u = Add(h, h) },
                          else_branch = b () => (float[2] v) { v = Mul(h, w) }>
           y = Relu(z)""",
        w=np.array([0.5, 2.0]),
    )
    result = converted(model, precision)
    for flag, expected in ((True, [1.0, 8.0]), (False, [0.25, 8.0])):
        y = run(result, x=np.array([1.0, 2.0], np.float32), flag=np.array(flag))
        assert y.tolist() == pytest.approx(expected)


def test_borders_keep_their_names_and_types() -> None:
    model = graph(
        "(float[batch, 2] image) => (float[batch, 2] logits, float[batch, 2] hidden)",
        "hidden = MatMul(image, w)  logits = Relu(hidden)",
        w=np.eye(2),
    )
    result = converted(model, "bf16")
    assert [(v.name, v.type.tensor_type.elem_type) for v in result.graph.input] == [("image", FLOAT)]
    assert [(v.name, v.type.tensor_type.elem_type) for v in result.graph.output] == [
        ("logits", FLOAT),
        ("hidden", FLOAT),
    ]


def test_the_rewrite_is_the_same_each_time() -> None:
    model = graph(
        "(float[batch, 2] x) => (float[batch, 2] y)",
        "h = MatMul(x, w) s = Softmax(h) y = Add(s, x)",
        w=np.eye(2),
    )
    assert converted(model, "fp16").SerializeToString() == converted(model, "fp16").SerializeToString()
