"""Right runtimes that were accused or refused once, each kind in its smallest file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.results import DiffResult
from hsm_export.runtimes.contrib import contrib_operators

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def compared(path: Path, model: onnx.ModelProto, feed: dict[str, Any] | None) -> DiffResult:
    onnx.save(model, str(path / "m.onnx"))
    return diff(path / "m.onnx", ["ort"], inputs=feed, options=DiffOptions(layers=True, generate=0))


def one_node(
    operator: str,
    feed: dict[str, np.ndarray[Any, Any]],
    weights: dict[str, Any] | None = None,
    *,
    inputs: str | None = None,
    outputs: str = "y",
    kind: int = FLOAT,
    opset: int = 18,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node that reads the feed, then the weights; `inputs` gives another order ("x,,roi")."""
    stored = {name: np.asarray(array) for name, array in (weights or {}).items()}
    names = inputs.split(",") if inputs else [*feed, *stored]
    node = helper.make_node(operator, names, outputs.split(","), operator.lower(), **attributes)
    ends = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feed.items()
    ]
    results = [helper.make_tensor_value_info(name, kind, None) for name in outputs.split(",")]
    graph = helper.make_graph(
        [node], "g", ends, results, [numpy_helper.from_array(item, name) for name, item in stored.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("mask", ["boolean", "least number", "infinite"])
def test_attention_whose_mask_hides_a_whole_row(mask: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal((1, 2, 4, 8)).astype(np.float32) for name in "qkv"}
    seen = np.tril(np.ones((4, 4), bool))
    seen[2] = mask != "boolean"  # a row of least numbers is a mean of all, by arithmetic
    if mask == "boolean":
        feed["mask"] = seen
    else:
        feed["mask"] = np.where(seen, 0, -np.inf if mask == "infinite" else np.finfo(np.float32).min).astype(np.float32)
    model = one_node("Attention", feed, opset=23)
    assert compared(tmp_path, model, feed).passed


@pytest.mark.parametrize(
    ("mode", "antialias", "align"),
    [
        ("cubic", 1, "half_pixel"),
        ("linear", 1, "half_pixel"),
        ("cubic", 0, "asymmetric"),
        ("linear", 0, "align_corners"),
    ],
)
def test_interpolation(mode: str, antialias: int, align: str, tmp_path: Path) -> None:
    feed = {"x": np.random.default_rng(0).random((1, 1, 7, 12)).astype(np.float32)}
    scales = {"sizes": np.array([1, 1, 4, 9], np.int64)}
    model = one_node(
        "Resize", feed, scales, inputs="x,,,sizes", mode=mode, antialias=antialias,
        coordinate_transformation_mode=align,
    )  # fmt: skip
    assert compared(tmp_path, model, feed).passed


@pytest.mark.parametrize("operator", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_over_long_sums(operator: str, reduction: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feed = {"x": rng.random((3, 5, 90, 60)).astype(np.float32), "target": rng.integers(0, 5, (3, 90, 60))}
    model = one_node(operator, feed, {"w": rng.random(5).astype(np.float32)}, reduction=reduction)
    assert compared(tmp_path, model, feed).passed


def test_a_long_sum_whose_length_only_a_run_shows(tmp_path: Path) -> None:
    feed = {"x": np.random.default_rng(0).random((300, 400)).astype(np.float32)}
    model = one_node("ReduceSum", feed, keepdims=0)
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.ClearField("dim_value")
    result = compared(tmp_path, model, feed)
    (output,) = result.runtimes[0].outputs
    assert result.passed
    assert output.threshold.value > 32 * np.finfo(np.float32).eps * output.errors.scale


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("seed", [None, 7])
def test_dropout_that_a_run_switches_on_is_random_and_no_other_is(on: bool, seed: int | None, tmp_path: Path) -> None:
    """With a seed, ONNX Runtime draws the same numbers again: no other runtime does."""
    feed = {"x": np.ones((4, 8), np.float32), "training": np.array(on)}
    attributes = {} if seed is None else {"seed": seed}
    model = one_node("Dropout", feed, {"ratio": np.float32(0.5)}, inputs="x,ratio,training", **attributes)
    result = compared(tmp_path, model, feed)
    assert result.passed is not on
    assert result.unjudged == (("the file draws random numbers at dropout (Dropout)",) if on else ())
    assert on or compared(tmp_path, model, None).passed  # chosen inputs do not switch it on


def test_sums_halfway_between_two_quanta(tmp_path: Path) -> None:
    feed = {"a": np.arange(256, dtype=np.uint8)[:, None]}
    scales = {
        "a_scale": np.float32(0.05), "a_zero": np.uint8(128), "b": np.array([[1, 50, 77]], np.uint8),
        "b_scale": np.float32(0.01), "b_zero": np.uint8(0), "y_scale": np.float32(0.05), "y_zero": np.uint8(128),
    }  # fmt: skip
    model = one_node("QLinearMatMul", feed, scales, kind=TensorProto.UINT8)
    assert compared(tmp_path, model, feed).passed


@pytest.mark.parametrize("operator", ["QLinearMatMul", "QLinearConv"])
def test_only_what_lies_halfway_goes_either_way(operator: str) -> None:
    ways = [_steps_of(operator, np.arange(-40, 40, dtype=np.int8), order) for order in range(3)]
    halfway = np.arange(-40, 40) % 10 == 5
    same = (ways[0] == ways[1]) & (ways[0] == ways[2])
    np.testing.assert_array_equal(same.reshape(-1), ~halfway)


def _steps_of(operator: str, sums: np.ndarray[Any, Any], order: int) -> np.ndarray[Any, Any]:
    """Return a tenth of each sum in steps."""
    known = {item.__name__: item for item in contrib_operators(order)}
    one, zero, tenth = np.float32(1), np.int8(0), np.float32(10)
    x = sums[:, None] if operator == "QLinearMatMul" else sums[None, None]
    w = np.ones((1,) * x.ndim, np.int8)
    given = [np.asarray(item) for item in (x, one, zero, w, one, zero, tenth, zero)]
    feed = dict(zip("xstwuvyz", given, strict=True))
    model = one_node(operator, feed, kind=TensorProto.INT8)
    (result,) = onnx.reference.ReferenceEvaluator(model, new_ops=[known[operator]]).run(None, feed)
    return np.asarray(result)


@pytest.mark.parametrize("operator", ["HannWindow", "HammingWindow", "BlackmanWindow"])
def test_windows_err_by_their_scale(operator: str, tmp_path: Path) -> None:
    feed = {"size": np.array(1, np.int64)}
    assert compared(tmp_path, one_node(operator, feed), feed).passed


def test_the_largest_of_none(tmp_path: Path) -> None:
    feed = {"x": np.zeros((2, 0, 4), np.float32)}
    model = one_node("ReduceMax", feed, {"axes": np.array([1], np.int64)}, opset=20)
    assert compared(tmp_path, model, feed).passed


LOOP = """
<ir_version: 8, opset_import: ["" : 16]>
g (int64 trips, bool go, optional(seq(float)) given) => (seq(float[]) y) {
   y = Loop (trips, go, given) <body = body (int64 step, bool go_on, optional(seq(float)) held)
                                      => (bool more, seq(float) next) {
      more = Identity (go_on)
      some = OptionalHasElement (held)
      none = Not (some)
      parts = If (none) <else_branch = taken () => (seq(float) kept) { kept = OptionalGetElement (held) },
                         then_branch = made () => (seq(float) first) {
                            zero = Constant <value = float {0}> ()
                            first = SequenceConstruct (zero) }>
      number = Cast <to = 1> (step)
      next = SequenceInsert (parts, number)
   }>
}
"""


def test_a_loop_that_carries_an_optional(tmp_path: Path) -> None:
    """Of no iteration, onnx's evaluator returns the optional itself, which is no sequence."""
    assert compared(tmp_path, onnx.parser.parse_model(LOOP), None).passed
