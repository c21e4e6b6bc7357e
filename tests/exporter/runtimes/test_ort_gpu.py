"""ONNX Runtime on a GPU: available where the provider is compiled in, and never the CPU in silence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from tests.exporter.building.hand_made import token_model

import onnxruntime
from hsm_export.building.cuda_driver import Driver
from hsm_export.errors import MissingDependencyError
from hsm_export.runtimes import get, gpu, ort_gpu
from hsm_export.runtimes.runtime import RunContext

PROVIDERS = {"ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(onnx.load(token_model(tmp_path / "m.onnx")), tmp_path, "fp32")


@pytest.mark.parametrize("name", PROVIDERS)
def test_available_where_the_provider_and_a_gpu_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "probe", lambda: Driver("13.0", ("NVIDIA L4 (sm89)",), None))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert PROVIDERS[name] in str(get(name).available())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    assert get(name).available() is None
    monkeypatch.setattr(gpu, "probe", lambda: Driver("13.0", (), "the NVIDIA driver sees no GPU"))
    assert get(name).available() == "the NVIDIA driver sees no GPU"


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_cpu_in_place_of_the_gpu_is_an_error(name: str, context: RunContext) -> None:
    if PROVIDERS[name] in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with (
        pytest.warns(UserWarning, match=PROVIDERS[name]),
        pytest.raises(MissingDependencyError, match=f"could not start its {PROVIDERS[name]}"),
        get(name).runner(context),
    ):
        pass


@pytest.mark.parametrize("name", PROVIDERS)
def test_sessions_ask_for_the_provider_with_our_library(
    name: str, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def session(_model: bytes, sess_options: Any, providers: list[Any]) -> Any:
        asked["providers"] = providers
        return SimpleNamespace(get_providers=lambda: [PROVIDERS[name]], get_inputs=lambda: [])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider", *PROVIDERS.values()])
    monkeypatch.setattr("hsm_export.native.register", lambda _options, library: asked.update(library=library))
    monkeypatch.setattr(ort_gpu, "find_library", lambda library: Path("/opt") / library)
    get(name).runner(context).activate()
    first, *rest = asked["providers"]
    if name == "ort-cuda":
        assert (first, rest) == (("CUDAExecutionProvider", {}), ["CPUExecutionProvider"])
        assert asked["library"] == Path("/opt/libhsm_onnxruntime_cuda.so")
    else:
        plugins = {"trt_extra_plugin_lib_paths": "/opt/libhsm_tensorrt.so"}
        assert first == ("TensorrtExecutionProvider", plugins)
        assert rest == ["CUDAExecutionProvider", "CPUExecutionProvider"]
        assert "library" not in asked
