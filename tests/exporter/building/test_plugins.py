"""Builds with our plugins, in TensorRT-RTX's real parser and builder: experimental there, but it needs no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from tests.exporter.building.test_models import MODELS, PRECISIONS, exported
from tests.exporter.building.test_operators import SIGNATURES, one_node_model
from tests.plugins.tensorrt.library import plugin_library

import hsm_export
from hsm_export import native
from hsm_export.building import BuildResult
from hsm_export.building.network import plugin_nodes
from hsm_export.errors import BuildRefusedError, MissingDependencyError
from hsm_models import zoo

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library under test, as if it were the installed one."""
    path = plugin_library()
    find = native.find_library
    monkeypatch.setattr(native, "find_library", lambda name: path if name == native.TENSORRT_PLUGINS else find(name))
    return path


def build(model: Path) -> BuildResult:
    return hsm_export.build(
        model,
        target="tensorrt-rtx",
        plugins=True,
        architectures="sm86",
        profiles=[{"batch": "1:2:4", "length": "1:16:64"}] if "digits" not in model.name else (),
    )


def check(result: BuildResult, model: Path) -> None:
    nodes = plugin_nodes(onnx.load(model, load_external_data=False))
    assert result.engine_bytes > 10_000
    if nodes:
        assert result.experimental
        assert result.plugins is not None
        assert result.plugins.layers == nodes
    else:
        assert result.plugins is None


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if index else []) for index, name in enumerate(MODELS)]
)
def test_a_model_builds(tmp_path: Path, name: str) -> None:
    model = exported(tmp_path, MODELS[name], "fp16")
    result = build(model)
    check(result, model)
    if result.plugins is None:
        return
    side = json.loads(result.side_file.read_text())
    assert side["experimental"] is True
    assert len(side["plugins"]["sha256"]) == 64
    assert side["plugins"]["embedded"] is False


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", zoo.names())
def test_every_zoo_model_builds_in_every_precision(tmp_path: Path, name: str, precision: str) -> None:
    model = tmp_path / f"{name}.onnx"
    hsm_export.export(f"zoo:{name}", output=model, precision=precision)
    check(build(model), model)


@pytest.mark.parametrize(
    "precision", ["fp16", pytest.param("fp32", marks=pytest.mark.slow), pytest.param("bf16", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", SIGNATURES)
def test_every_operator_builds(tmp_path: Path, name: str, precision: str) -> None:
    model = one_node_model(tmp_path / "m.onnx", name, precision)
    check(build(model), model)


def test_a_refusal_names_the_node_and_says_what_was_expected(tmp_path: Path) -> None:
    path = one_node_model(tmp_path / "m.onnx", "ExpertMatMul", "fp32")
    model = onnx.load(path)
    (k,) = (attribute for attribute in model.graph.node[0].attribute if attribute.name == "k")
    k.i = 9  # of 4 experts
    onnx.save(model, path)
    with pytest.raises(BuildRefusedError, match=r"layers\.0\.mixer"):
        build(path)


def test_an_operator_that_no_plugin_serves_is_refused(tmp_path: Path) -> None:
    path = one_node_model(tmp_path / "m.onnx", "TokenShift", "fp32")
    model = onnx.load(path)
    model.graph.node[0].op_type = model.functions[0].name = "NoSuchMixer"
    onnx.save(model, path)
    with pytest.raises(MissingDependencyError, match="no plugin NoSuchMixer is registered") as caught:
        build(path)
    assert "--no-plugins" in str(caught.value.hint)


def test_a_library_that_is_none_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / native.TENSORRT_PLUGINS
    broken.write_bytes(b"no library")
    monkeypatch.setattr(native, "find_library", lambda _name: broken)
    with pytest.raises(MissingDependencyError, match=r"libhsm_tensorrt\.so"):
        build(one_node_model(tmp_path / "m.onnx", "TokenShift", "fp32"))


def test_a_kits_program_links_the_library_and_cleans_up(tmp_path: Path) -> None:
    model = one_node_model(tmp_path / "m.onnx", "ShiftMix", "fp32")
    kit = hsm_export.write_kit(
        model,
        tmp_path / "kit",
        target="tensorrt-rtx",
        plugins=True,
        architectures="sm86",
        profiles=[{"batch": "1:2:4", "length": "1:8:16"}],
    ).kit
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, str(kit / "build.py"), "--build-only"],
        capture_output=True,
        text=True,
        cwd="/",
        env={"TMPDIR": str(scratch), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((kit / "result" / "result.json").read_text())
    assert record["facts"]["plugin_layers"] == ["layers.0.mixer"]
    assert not list(scratch.iterdir())
    assert "**Experimental:**" in (kit / "README.md").read_text()
