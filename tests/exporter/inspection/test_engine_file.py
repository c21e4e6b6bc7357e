"""Engines, described by the side files that builds write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from onnx import helper
from tests.exporter.inspection.hand_made import save

from hsm_export.building.result import BuildResult, write_side_file
from hsm_export.errors import BadInputError
from hsm_export.formats.engine_file import BuilderWarning, SourceFile, side_file_path
from hsm_export.formats.profile import Range
from hsm_export.formats.tensor import Tensor
from hsm_export.inspection import EngineResult, inspect


def write_engine(folder: Path, source_sha256: str = "0" * 64) -> Path:
    """Write an engine's bytes and the side file that a build would write; no builder is needed."""
    engine = folder / "m.engine"
    engine.write_bytes(b"engine")
    result = BuildResult(
        engine=engine,
        side_file=side_file_path(engine),
        target="tensorrt-rtx",
        target_version="1.7.1",
        architectures=("sm86", "sm120"),
        precision="fp16",
        inputs=(Tensor("tokens", "int64", ("batch", "length")),),
        outputs=(Tensor("logits", "float32", ("batch", "length", 256)),),
        profiles=({"batch": Range(1, 4, 32), "length": Range(1, 512, 4096)},),
        strip_weights=True,
        weight_streaming=False,
        refit=True,
        source=SourceFile("m.onnx", source_sha256, {}),
        engine_bytes=6,
        engine_sha256=hashlib.sha256(b"engine").hexdigest(),
        layers=17,
        build_seconds=1.0,
        peak_memory_bytes=None,
        warnings=(BuilderWarning("something odd", 2),),
        model={"task": "language_model"},
        hsm_export_version="0.1.0",
    )
    write_side_file(result)
    return engine


def inspect_engine(path: Path) -> EngineResult:
    """Inspect and narrow the type."""
    result = inspect(path)
    assert isinstance(result, EngineResult)
    return result


@pytest.mark.parametrize("suffix", [".engine", ".plan"])
def test_the_side_file_of_a_build_is_read(suffix: str, tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    side_file_path(engine).rename(side_file_path(engine.with_suffix(suffix)))
    result = inspect_engine(engine.rename(engine.with_suffix(suffix)))
    assert result.intact and result.bytes == 6 and result.onnx is None
    found = result.engine
    assert (found.target, found.target_version, found.precision) == ("tensorrt-rtx", "1.7.1", "fp16")
    assert found.architectures == ("sm86", "sm120") and found.strip_weights and found.refit
    assert found.profiles == ({"batch": Range(1, 4, 32), "length": Range(1, 512, 4096)},)
    assert found.inputs[0].shape == ("batch", "length") and found.outputs[0].shape == ("batch", "length", 256)
    assert found.warnings == (BuilderWarning("something odd", 2),) and found.source.file == "m.onnx"


def test_the_plugins_that_an_engine_needs_are_told(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    side = Path(f"{engine}.json")
    data = json.loads(side.read_text())
    assert inspect_engine(engine).engine.plugins is None
    layers = {"layers.0.mixer": "ShiftMix"}
    use = {"file": "libhsm_tensorrt.so", "sha256": "ab", "embedded": False, "layers": layers, "further": {"x.so": "cd"}}
    side.write_text(json.dumps({**data, "plugins": use, "gpu": "NVIDIA L4 (sm89)", "experimental": True}))
    result = inspect(engine)
    assert isinstance(result, EngineResult)
    assert result.engine.plugins is not None and result.engine.plugins.to_dict() == use
    assert result.engine.gpu == "NVIDIA L4 (sm89)" and result.engine.experimental
    side.write_text(json.dumps({**data, "plugins": 7}))
    with pytest.raises(BadInputError, match="side file"):
        inspect(engine)


def test_another_engine_behind_the_same_name_is_noticed(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    for content in (b"other.", b"longer engine"):
        engine.write_bytes(content)
        assert not inspect_engine(engine).intact


def test_the_onnx_file_beside_the_engine_is_described_too(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    onnx_file = save(tmp_path / "m.onnx", nodes, {"x": (1, "length")}, ["y"])
    engine = write_engine(tmp_path, hashlib.sha256(onnx_file.read_bytes()).hexdigest())
    result = inspect_engine(engine)
    assert result.onnx is not None and result.onnx.operators == {"Relu": 1}
    save(tmp_path / "m.onnx", nodes * 1, {"x": (2, "length")}, ["y"])
    assert inspect_engine(engine).onnx is None


def test_an_engine_without_side_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    side_file_path(engine).unlink()
    with pytest.raises(BadInputError, match="can only be read with a GPU"):
        inspect(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not the side file"),
        ({"schema": "other"}, "not the side file"),
        ({"schema_version": 2}, "schema version 2"),
        ({"profiles": None}, "not the side file"),
        ({"inputs": [{"name": "x"}]}, "not the side file"),
        ({"source": "m.onnx"}, "not the side file"),
        ({"profiles": [{"batch": {"min": "many", "opt": 1, "max": 1}}]}, "not the side file"),
        ({"layers": None}, "not the side file"),
    ],
)
def test_damaged_side_files_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    side_file = side_file_path(engine)
    text = change if isinstance(change, str) else json.dumps(json.loads(side_file.read_text()) | change)
    side_file.write_text(text)
    with pytest.raises(BadInputError, match=message):
        inspect(engine)


def test_the_side_file_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    outside = save(tmp_path / "secret.onnx", nodes, {"x": (1, "length")}, ["y"])
    engine = write_engine(tmp_path / "inner")
    side_file = side_file_path(engine)
    data = json.loads(side_file.read_text())
    data["source"] |= {"file": "../secret.onnx", "sha256": hashlib.sha256(outside.read_bytes()).hexdigest()}
    side_file.write_text(json.dumps(data))
    assert inspect_engine(engine).onnx is None
