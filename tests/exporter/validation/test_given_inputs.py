"""The user's own arrays: what an input takes, by its type, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hsm_export.errors import BadInputError
from hsm_export.onnx_model.model_file import ModelFile, open_model
from hsm_export.validation.cases import default_cases
from hsm_export.validation.given_inputs import given_feed, read_npz, rounded

INF, NAN = np.inf, np.nan


def opened(path: Path, kind: int, shape: list[Any] | None, *nodes: onnx.NodeProto, **metadata: Any) -> ModelFile:
    """Write a file with one input `x` and open it."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {f"hsm_export.{key}": json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)
    return open_model(path)


@pytest.mark.parametrize(
    ("kind", "array", "fed"),
    [
        (TensorProto.FLOAT, np.array([0.0, -INF, INF, NAN], np.float32), "float32"),
        (TensorProto.FLOAT, np.zeros((0,), np.float32), "float32"),
        (TensorProto.FLOAT, np.array([1.5], np.float16), "float32"),
        (TensorProto.FLOAT16, np.array([-65504.0, 1.0], np.float16), "float32"),
        (TensorProto.DOUBLE, np.array([1 + 2.0**-50]), "float64"),
        (TensorProto.BFLOAT16, np.array([1.0, 3.0], ml_dtypes.bfloat16), "float32"),
        (TensorProto.INT64, np.array([-(2**63), 2**63 - 1]), "int64"),
        (TensorProto.INT32, np.array([-(2**31), 2**31 - 1]), "int32"),
        (TensorProto.UINT64, np.array([0, 2**64 - 1], np.uint64), "uint64"),
        (TensorProto.INT8, np.array([-128, 127]), "int8"),
        (TensorProto.BOOL, np.array([True, False]), "bool"),
        (TensorProto.STRING, np.array(["schön", ""]), "object"),
        (TensorProto.COMPLEX64, np.array([1 + 2j], np.complex64), "complex64"),
    ],
)
def test_takes_every_value_of_a_type(tmp_path: Path, kind: int, array: Any, fed: str) -> None:
    file = opened(tmp_path / "m.onnx", kind, ["n"])
    np.savez(tmp_path / "in.npz", x=array)
    arrays, name = read_npz(tmp_path / "in.npz")
    found = given_feed(file, arrays, name)["x"]
    assert found.dtype.name == fed
    wanted = array.astype(np.float64) if fed == "float32" else array
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("kind", "shape", "array", "says"),
    [
        (TensorProto.INT8, ["n"], np.array([-129]), "x must lie in -128…127, got -129…-129"),
        (TensorProto.UINT16, ["n"], np.array([-1]), "x must lie in 0…65535"),
        (TensorProto.INT64, ["n"], np.array([1.0]), r"x must hold integers \(int64\), got float64"),
        (TensorProto.FLOAT, ["n"], np.array([1]), "x must hold floating-point numbers"),
        (TensorProto.FLOAT, ["n"], np.array([1.0], ml_dtypes.bfloat16), "must hold floating-point numbers"),
        (TensorProto.BOOL, ["n"], np.array([1]), "x must hold Booleans"),
        (TensorProto.STRING, ["n"], np.array([1]), "x must hold text"),
        (TensorProto.STRING, ["n"], np.array([None]), "x must hold text"),
        (TensorProto.FLOAT, ["n", "n"], np.zeros((2, 3)), r"must have shape \(n, n\), got \(2, 3\)"),
        (TensorProto.FLOAT, [4], np.zeros(3), r"must have shape \(4\), got \(3,\)"),
        (TensorProto.FLOAT, [], np.zeros(3), r"must have shape \(\), got \(3,\)"),
    ],
)
def test_refuses_what_the_input_cannot_hold(tmp_path: Path, kind: int, shape: Any, array: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        given_feed(opened(tmp_path / "m.onnx", kind, shape), {"x": array}, "given inputs")


def test_a_shape_that_the_file_leaves_open_is_any(tmp_path: Path) -> None:
    file = opened(tmp_path / "m.onnx", TensorProto.FLOAT, None)
    for shape in ((), (3,), (2, 0, 5)):
        assert given_feed(file, {"x": np.zeros(shape)}, "").popitem()[1].shape == shape


def test_a_negative_dimension_is_dynamic(tmp_path: Path) -> None:
    file = opened(tmp_path / "m.onnx", TensorProto.FLOAT, [-1, 2])
    assert file.inputs[0].shape == ("x.0", 2)
    assert given_feed(file, {"x": np.zeros((7, 2))}, "")["x"].shape == (7, 2)


def test_what_the_exporter_recorded_is_a_range(tmp_path: Path) -> None:
    file = opened(tmp_path / "m.onnx", TensorProto.INT64, ["n"], inputs=[{"name": "x", "low": 2, "high": 9}])
    assert given_feed(file, {"x": np.array([2, 9])}, "")["x"].tolist() == [2, 9]
    for wrong in ([1], [10], []):
        with pytest.raises(BadInputError, match="x must"):
            given_feed(file, {"x": np.array(wrong, int)}, "")


def test_indices_are_held_to_their_table_unless_they_are_clipped(tmp_path: Path) -> None:
    direct = helper.make_node("Gather", ["t", "x"], ["g"])
    cast = helper.make_node("Cast", ["g"], ["y"], to=TensorProto.INT64)
    rows = helper.make_node("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.FLOAT, [3], [1, 2, 3]))
    file = opened(tmp_path / "direct.onnx", TensorProto.INT64, ["n"], rows, direct, cast)
    assert given_feed(file, {"x": np.array([-3, 2])}, "")["x"].tolist() == [-3, 2]
    with pytest.raises(BadInputError, match="x must lie in -3…2"):
        given_feed(file, {"x": np.array([3])}, "")
    clipped = [
        helper.make_node("Constant", [], ["low"], value_int=0),
        helper.make_node("Constant", [], ["high"], value_int=2),
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("Gather", ["t", "c"], ["g"]),
    ]
    file = opened(tmp_path / "clipped.onnx", TensorProto.INT64, ["n"], rows, *clipped, cast)
    assert given_feed(file, {"x": np.array([300, -7])}, "")["x"].tolist() == [300, -7]


@pytest.mark.parametrize("kind", [TensorProto.BOOL, TensorProto.STRING, TensorProto.DOUBLE, TensorProto.COMPLEX64])
def test_random_cases_have_the_type_of_the_input(tmp_path: Path, kind: int) -> None:
    file = opened(tmp_path / "m.onnx", kind, ["n", 3])
    cases, _ = default_cases(file)
    for case in cases:
        given_feed(file, case.feed, case.name)


def test_random_inputs_that_would_fill_the_memory_are_not_made(tmp_path: Path) -> None:
    file = opened(tmp_path / "m.onnx", TensorProto.INT8, ["n", (1 << 31) + 1])
    with pytest.raises(BadInputError, match=r"input x of shape .* takes .* GiB"):
        default_cases(file)


def test_a_file_that_makes_more_than_the_memory_holds_is_not_run(tmp_path: Path) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1 << 20, 1 << 20])
    nodes = [
        helper.make_node("Constant", [], ["s"], value=shape),
        helper.make_node("ConstantOfShape", ["s"], ["giant"]),
        helper.make_node("ReduceSum", ["giant"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    file = opened(tmp_path / "m.onnx", TensorProto.FLOAT, ["n"], *nodes)
    says = r"the tensor giant of shape \[1048576, 1048576\] takes 4\.0 TiB, more than the .* of this machine"
    with pytest.raises(BadInputError, match=says):
        given_feed(file, {"x": np.zeros(2)}, "given inputs")
    with pytest.raises(BadInputError, match=says):
        default_cases(file)


def test_floats_are_rounded_to_the_type_of_the_input(tmp_path: Path) -> None:
    file = opened(tmp_path / "m.onnx", TensorProto.FLOAT16, ["n"])
    found = rounded(file, {"x": np.array([1 + 2.0**-12, 1e9, -INF], np.float32)})["x"]
    assert found.tolist() == [1.0, INF, -INF]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)), "sequence(float32)"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.INT64, [2])), "optional(int64)"),
        (helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, None)), "map(int64, float32)"),
        (helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3]), "sparse(float32)"),
        (onnx.TypeProto(), "no type"),
    ],
)
def test_what_is_no_tensor_is_described_and_refused(tmp_path: Path, kind: onnx.TypeProto, words: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", kind)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    from hsm_export import inspect
    from hsm_export.onnx_model.model_file import read_model

    assert inspect(tmp_path / "m.onnx").to_dict()["inputs"][0]["dtype"] == words
    kind_words = "has no element type" if words == "no type" else f"is of type {words}"
    with pytest.raises(BadInputError) as caught:
        given_feed(read_model(tmp_path / "m.onnx"), {"x": np.zeros(2)}, "")
    assert f"input x {kind_words}; only tensors are fed" in caught.value.message
