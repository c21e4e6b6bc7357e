"""Compile a network with a stand-in for TensorRT: plugins are counted, options arrive, refusals are clear."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.exporter.building.fake_tensorrt import FakeTensorRT
from tests.exporter.building.test_operators import one_node_model

from hsm_export.building.network import network_bytes, plugin_nodes
from hsm_export.building.portable.compiling import Compiled, Log, RefusedError, Settings, compile_network

SHAPES = {"x": ((1, 1, 12), (1, 8, 12), (2, 16, 12)), "dropped": ((1,), (1,), (1,))}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libhsm_tensorrt.so"
    path.write_bytes(b"plugins")
    return path


def compile_operator(
    tmp_path: Path, trt: FakeTensorRT, *, plugins: bool = True, name: str = "TokenShift", **settings: Any
) -> Compiled:
    path = one_node_model(tmp_path / "m.onnx", name, "fp32")
    nodes = plugin_nodes(onnx.load(path)) if plugins else {}
    libraries = [str(tmp_path / "libhsm_tensorrt.so")] if plugins else []
    wanted = {"plugin_libraries": libraries, "plugin_layers": nodes, "profiles": [SHAPES], **settings}
    log = Log(lambda _severity, _text: None)
    network = network_bytes(path, plugins=frozenset(nodes.values()))
    return compile_network(trt, network, str(path), Settings("TensorRT", **wanted), lambda _phase: None, log)


def test_every_node_becomes_a_plugin_layer(tmp_path: Path, library: Path) -> None:
    trt = FakeTensorRT()
    compiled = compile_operator(tmp_path, trt)
    assert compiled.plugin_layers == ("layers.0.mixer",)
    assert compiled.version == "10.99.0"
    assert (compiled.inputs, compiled.outputs) == ({"x": "float"}, {"y": "float"})
    assert trt.registry.loaded == [str(library)]
    assert compiled.facts()["layers"] == 1


def test_plugins_that_are_registered_are_not_loaded_again(tmp_path: Path, library: Path) -> None:
    trt = FakeTensorRT()
    compile_operator(tmp_path, trt)
    compile_operator(tmp_path, trt)
    assert trt.registry.loaded == [str(library)]


def test_without_plugins_nothing_is_loaded_and_no_layer_is_one(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    compiled = compile_operator(tmp_path, trt, plugins=False)
    assert compiled.plugin_layers == ()
    assert compiled.layers > 1
    assert trt.registry.loaded == []


def test_a_node_that_did_not_become_a_plugin_is_refused(tmp_path: Path, library: Path) -> None:
    with pytest.raises(RefusedError, match=r"1 of 1 nodes did not become plugin layers: layers\.0\.mixer \(TokenShift"):
        compile_operator(tmp_path, FakeTensorRT(ignores="TokenShift"))


def test_more_plugins_than_nodes_are_refused(tmp_path: Path, library: Path) -> None:
    with pytest.raises(RefusedError, match="1 layers are plugins, but the network has 0 nodes"):
        compile_operator(tmp_path, FakeTensorRT(), plugin_layers={})


@pytest.mark.parametrize("content", [b"", None])
def test_a_library_that_does_not_load_is_an_environment_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "libhsm_tensorrt.so").write_bytes(content)
    with pytest.raises((RefusedError, FileNotFoundError), match=r"libhsm_tensorrt\.so") as caught:
        compile_operator(tmp_path, FakeTensorRT())
    if isinstance(caught.value, RefusedError):
        assert caught.value.kind == "missing"
        assert "--no-plugins" in str(caught.value.hint)


def test_a_library_that_lacks_an_operator_is_an_environment_error(tmp_path: Path, library: Path) -> None:
    trt = FakeTensorRT()
    trt.registry.load_library = lambda _path: object()  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match="no plugin TokenShift is registered"):
        compile_operator(tmp_path, trt)


def test_options_reach_the_builder(tmp_path: Path, library: Path) -> None:
    trt = FakeTensorRT()
    compile_operator(
        tmp_path,
        trt,
        refit=True,
        strip_weights=True,
        version_compatible=True,
        hardware_compatibility="ampere+",
        embed_plugins=True,
        architectures=["sm89", "sm86"],
    )
    (config,) = trt.configs
    assert config.flags == {"REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"}  # and no TF32
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS  # type: ignore[attr-defined]
    assert config.plugins_to_serialize == [str(library)]
    assert config.capabilities == {0: "SM89", 1: "SM86"}
    assert config.profiles == [{"x": SHAPES["x"]}]  # an input that the parser dropped has no shape to set


def test_the_timing_cache_is_read_and_written(tmp_path: Path, library: Path) -> None:
    cache = tmp_path / "timing.cache"
    for expected in (b"+measured", b"+measured+measured"):
        compile_operator(tmp_path, FakeTensorRT(), timing_cache=str(cache))
        assert cache.read_bytes() == expected
    cache.write_bytes(b"other GPU")
    with pytest.raises(RefusedError, match="of another GPU or another version"):
        compile_operator(tmp_path, FakeTensorRT(), timing_cache=str(cache))
    assert cache.read_bytes() == b"other GPU"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architectures": ["sm86", "sm190"]}, "does not build for sm190"),
        ({"hardware_compatibility": "same-compute-capability"}, "no option SAME_COMPUTE_CAPABILITY"),
        ({"weight_streaming": True}, "could not build the network: no streaming here"),
    ],
)
def test_what_a_version_lacks_is_refused(tmp_path: Path, library: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        compile_operator(tmp_path, FakeTensorRT(), **settings)


def test_warnings_are_passed_on_and_chatter_is_not() -> None:
    seen: list[tuple[str, str]] = []
    log = Log(lambda severity, text: seen.append((severity, text)))
    for severity in ("info", "verbose", "warning", "error", "internal_error"):
        log.take(severity, f" {severity}\n")
    assert seen == [(name, name) for name in ("warning", "error", "internal_error")]
    assert log.first_error == "error"


def test_settings_travel_as_plain_data() -> None:
    settings = Settings("TensorRT", architectures=["sm86"], profiles=[SHAPES], refit=True)
    data = {**settings.to_dict(), "something": "else"}
    assert dataclasses.asdict(Settings.from_dict(data)) == dataclasses.asdict(settings)
