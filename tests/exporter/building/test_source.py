"""What is read from an ONNX file before a build, and which files are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
from tests.exporter.building.hand_made import WIDTH, token_model

from hsm_export.building.source import operators_by_type, read_source
from hsm_export.errors import BadInputError


def test_what_the_exporter_recorded_is_read(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", precision="fp16", max_length=77)
    source = read_source(path)
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
    assert read_source(path).precision == precision


def test_nameless_dynamic_dimensions_get_a_name(tmp_path: Path) -> None:
    source = read_source(token_model(tmp_path / "m.onnx", shape=(None, 4)))
    assert source.inputs[0].shape == ("tokens.0", 4)


def test_external_data_is_hashed_and_its_damage_found(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    assert read_source(path).external_data == {data.name: hashlib.sha256(data.read_bytes()).hexdigest()}
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(BadInputError, match="truncated"):
        read_source(path)
    data.unlink()
    with pytest.raises(BadInputError, match="does not exist"):
        read_source(path)


def test_external_data_outside_the_directory_is_refused(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError, match="outside"):
        read_source(path)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    whole = token_model(tmp_path / "m.onnx").read_bytes()
    for name, content in {"text": b"hello\n", "empty": b"", "half": whole[: len(whole) // 2]}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=name):
            read_source(path)
    with pytest.raises(BadInputError, match="does not exist"):
        read_source(tmp_path / "missing.onnx")
    with pytest.raises(BadInputError, match="directory"):
        read_source(tmp_path)


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    path = token_model(tmp_path / "m.onnx", operator="QLinearMatMul")
    with pytest.raises(BadInputError, match="quantised"):
        read_source(path)


def test_operators_are_told_apart_by_their_type(tmp_path: Path) -> None:
    half = operators_by_type(token_model(tmp_path / "m.onnx", precision="fp16"))
    assert half["float16"] >= {"Gather", "Mul", "MatMul"}
    assert "float32" not in half
