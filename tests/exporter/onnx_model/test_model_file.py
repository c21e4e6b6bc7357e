"""What is read from an ONNX file, and which files are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.exporter.building.hand_made import WIDTH, token_model

from hsm_export.building.network import operators_by_type
from hsm_export.building.plan import make_plan
from hsm_export.errors import BadInputError
from hsm_export.formats.build_options import BuildOptions
from hsm_export.onnx_model.model_file import open_model


def test_what_the_exporter_recorded_is_read(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", precision="fp16", max_length=77)
    source = open_model(path).facts
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in source.inputs] == [
        ("tokens", "int64", ("batch", "length"))
    ]
    assert source.outputs[0].shape == ("batch", "length", WIDTH)
    assert (source.precision, source.max_length) == ("fp16", 77)
    assert sorted(source.metadata) == ["config", "precision"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_precision_of_a_foreign_file_is_that_of_its_weights(tmp_path: Path, precision: str) -> None:
    path = token_model(tmp_path / "m.onnx", precision=precision)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert open_model(path).facts.precision == precision


def test_nameless_dynamic_dimensions_get_a_name(tmp_path: Path) -> None:
    source = open_model(token_model(tmp_path / "m.onnx", shape=(None, 4)))
    assert source.inputs[0].shape == ("tokens.0", 4)


def test_external_data_is_hashed_and_its_damage_found(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    assert open_model(path).facts.external_data == {data.name: hashlib.sha256(data.read_bytes()).hexdigest()}
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(BadInputError, match="truncated"):
        open_model(path)
    data.unlink()
    with pytest.raises(BadInputError, match="is missing"):
        open_model(path)


def test_external_data_outside_the_directory_is_refused(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError, match="outside"):
        open_model(path)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    whole = token_model(tmp_path / "m.onnx").read_bytes()
    for name, content in {"text": b"hello\n", "empty": b"", "half": whole[: len(whole) // 2]}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=name):
            open_model(path)
    with pytest.raises(BadInputError, match="does not exist"):
        open_model(tmp_path / "missing.onnx")
    with pytest.raises(BadInputError, match="directory"):
        open_model(tmp_path)


def test_a_file_beyond_the_limit_of_the_format_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # takes no place on the disk
    with pytest.raises(BadInputError, match="more than 2 GB"):
        open_model(path)


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", operator="QLinearMatMul")
    with pytest.raises(BadInputError, match="quantised"):
        make_plan(path, BuildOptions())


def test_operators_are_told_apart_by_their_type(tmp_path: Path) -> None:
    half = operators_by_type(onnx.load(token_model(tmp_path / "m.onnx", precision="fp16")))
    assert half["float16"] >= {"Gather", "Mul", "MatMul"}
    assert "float32" not in half


def quantised(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            quantised(
                helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
                helper.make_node("MatMul", ["x", "d"], ["y"]),
                w=np.zeros((32, 4), np.int8),
                s=np.float32(1),
            ),
            "int8, QDQ",
        ),
        (
            quantised(
                helper.make_node(
                    "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=32, N=4, bits=4, block_size=32
                ),
                w=np.zeros((4, 1, 16), np.uint8),
                s=np.ones(4, np.float32),
            ),
            "int4, MatMulNBits",
        ),
        (
            quantised(
                helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
                helper.make_node("MatMulInteger", ["q", "w", "qz"], ["i"]),
                helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["f", "qs"], ["y"]),
                w=np.zeros((32, 4), np.uint8),
            ),
            "uint8, integer operators and dynamic",
        ),
        (quantised(helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.zeros((32, 4), np.float32)), ""),
    ],
)
def test_quantised_weights_are_told_by_type_and_use(tmp_path: Path, model: onnx.ModelProto, words: str) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    file = open_model(tmp_path / "m.onnx")
    assert (file.quantised, file.precision) == (words, "fp32")
