"""Engines from hand-made models: what is written, what the side file says, and what remains after a failure."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.exporter.building.hand_made import token_model

import hsm_export
from hsm_export.building import engine as engine_module
from hsm_export.building import options as options_module
from hsm_export.building.cuda_driver import Driver
from hsm_export.errors import BadInputError, BuildRefusedError, MissingDependencyError, UsageError
from hsm_export.formats.profile import Range

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_engine_and_its_side_file_are_written(tmp_path: Path) -> None:
    model = token_model(tmp_path / "m.onnx", max_length=64)
    phases: list[str] = []
    result = hsm_export.build(
        model,
        architectures=["sm86", "sm120"],
        profiles=[{"batch": 1, "length": 1}, {"length": "1:32:64"}],
        weight_streaming=True,
        progress=phases.append,
    )
    assert names(tmp_path) == ["m.engine", "m.engine.json", "m.onnx"]
    side = json.loads(result.side_file.read_text())
    content = result.engine.read_bytes()
    assert side["schema"] == "hsm-export.engine"
    assert side["schema_version"] == 1
    assert side["engine"] == "m.engine"
    assert side["engine_bytes"] == len(content) == result.engine_bytes > 10_000
    assert side["engine_sha256"] == hashlib.sha256(content).hexdigest()
    assert side["source"] == {
        "file": "m.onnx",
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "external_data": {},
    }
    assert side["architectures"] == ["sm86", "sm120"]
    assert side["inputs"] == [{"name": "tokens", "dtype": "int64", "shape": ["batch", "length"]}]
    assert side["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", "length", 16]}]
    assert side["profiles"] == [
        {"batch": {"min": 1, "opt": 1, "max": 1}, "length": {"min": 1, "opt": 1, "max": 1}},
        {"batch": {"min": 1, "opt": 1, "max": 8}, "length": {"min": 1, "opt": 32, "max": 64}},
    ]
    assert (side["strip_weights"], side["weight_streaming"], side["refit"]) == (False, True, False)
    assert side["precision"] == "fp32"
    assert side["target"] == "tensorrt-rtx"
    assert side["target_version"].count(".") >= 2
    assert json.loads(side["model"]["config"]) == {"max_length": 64}
    assert side["build_seconds"] > 0
    assert str(tmp_path) not in result.side_file.read_text()
    assert phases[0] == "reading the model"
    assert any("compiling" in phase and "sm86, sm120" in phase for phase in phases)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_and_external_data(tmp_path: Path, precision: str) -> None:
    model = token_model(tmp_path / "m.onnx", precision=precision, external=True)
    result = hsm_export.build(model, tmp_path / "e.plan", architectures="sm89")
    assert result.precision == precision
    assert result.outputs[0].dtype == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert list(result.source.external_data) == ["m.onnx.data"]


def test_fixed_shapes_need_no_profile(tmp_path: Path) -> None:
    result = hsm_export.build(token_model(tmp_path / "m.onnx", shape=(2, 8)), architectures="sm80")
    assert result.profiles == ()
    assert result.inputs[0].shape == (2, 8)


def test_turing_takes_a_half_precision_network(tmp_path: Path) -> None:
    result = hsm_export.build(token_model(tmp_path / "m.onnx", precision="fp16"), architectures="sm75")
    assert result.architectures == ("sm75",)


def test_warnings_are_collected_and_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(job: dict[str, Any], _progress: Any, log: Any) -> dict[str, Any]:
        for message in ("slow", "hot", "slow"):
            log("warning", message)
        log("error", "bad")
        Path(job["engine"]).write_bytes(b"engine")
        return {"version": "1", "peak_memory_bytes": None, "inputs": {}, "outputs": {}, "layers": 1}

    monkeypatch.setattr(engine_module, "run_builder", noisy)
    seen: list[tuple[str, str]] = []
    result = hsm_export.build(
        token_model(tmp_path / "m.onnx"), log=lambda severity, text: seen.append((severity, text))
    )
    assert [(warning.message, warning.count) for warning in result.warnings] == [("slow", 2), ("hot", 1)]
    assert seen[-1] == ("error", "bad")


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"architectures": "sm90"}, BuildRefusedError, "sm90"),
    ({"architectures": "sm75"}, BuildRefusedError, "MatMul"),
    ({"architectures": "sm13"}, UsageError, "sm13"),
    ({"profiles": [{"length": 65}]}, UsageError, "64 tokens"),
    ({"profiles": [{"width": 1}]}, UsageError, "width"),
    ({"profiles": [{"batch": "4:2:1"}]}, UsageError, "increase"),
    ({"target": "openvino"}, UsageError, "openvino"),
    ({"output": "m.onnx"}, BadInputError, "overwrite"),
    ({"output": "missing/m.engine"}, BadInputError, "missing"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSALS)
def test_refusals_come_before_the_build_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(engine_module, "run_builder", lambda *_: pytest.fail("the builder ran"))
    monkeypatch.chdir(tmp_path)
    token_model(tmp_path / "m.onnx", max_length=64)
    with pytest.raises(error, match=words):
        hsm_export.build("m.onnx", **options)
    assert names(tmp_path) == ["m.onnx"]


def test_bf16_is_refused_for_turing(tmp_path: Path) -> None:
    model = token_model(tmp_path / "m.onnx", precision="bf16", product=False)
    with pytest.raises(BuildRefusedError, match="bf16"):
        hsm_export.build(model, architectures="sm75,sm86")


@pytest.mark.parametrize("option", ["strip_weights", "refit"])
def test_stripping_and_refitting_need_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setattr(options_module, "probe", lambda: Driver(None, (), "no NVIDIA driver is installed"))
    with pytest.raises(BuildRefusedError, match=f"--{option.replace('_', '-')} only on a machine with a GPU"):
        hsm_export.build(token_model(tmp_path / "m.onnx"), **{option: True})


def test_tensorrt_takes_no_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module.targets, "check_target", lambda _target: None)
    with pytest.raises(UsageError, match="--arch"):
        hsm_export.build(token_model(tmp_path / "m.onnx"), target="tensorrt", architectures="sm86")


def test_the_parsers_refusal_names_the_node_and_the_operator(tmp_path: Path) -> None:
    model = token_model(tmp_path / "m.onnx", operator="acme::NoSuchOperator")
    with pytest.raises(BuildRefusedError, match=r"output\.product.*NoSuchOperator"):
        hsm_export.build(model)
    assert names(tmp_path) == ["m.onnx"]


def test_a_failed_build_keeps_the_previous_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = token_model(tmp_path / "m.onnx")
    hsm_export.build(model, architectures="sm86")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def crash(*_: Any) -> dict[str, Any]:
        raise BuildRefusedError("crashed")

    monkeypatch.setattr(engine_module, "run_builder", crash)
    with pytest.raises(BuildRefusedError):
        hsm_export.build(model, architectures="sm89")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.gpu
def test_tensorrt_builds_on_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    result = hsm_export.build(
        token_model(tmp_path / "m.onnx"), target="tensorrt", profiles=[{"batch": "1:2:4", "length": "1:8:16"}]
    )
    assert result.target == "tensorrt"
    assert result.profiles[0]["length"] == Range(1, 8, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"refit": True}, {"strip_weights": True}])
def test_tensorrt_rtx_refits_and_strips_on_a_gpu(tmp_path: Path, options: dict[str, bool]) -> None:
    assert hsm_export.build(token_model(tmp_path / "m.onnx"), **options).engine_bytes > 0


def test_without_tensorrt_the_alternative_is_named(tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    with pytest.raises(MissingDependencyError, match="tensorrt") as caught:
        hsm_export.build(token_model(tmp_path / "m.onnx"), target="tensorrt")
    assert "tensorrt-rtx" in str(caught.value.hint)
