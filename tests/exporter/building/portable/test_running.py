"""Run engines of a stand-in for TensorRT on a stand-in for the driver: memory, profiles, types, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.exporter.building.fake_tensorrt import Driver, FakeTensorRT
from tests.exporter.building.test_operators import SIGNATURES, one_node_model

from hsm_export.building.network import network_bytes
from hsm_export.building.portable import device as device_module
from hsm_export.building.portable.compiling import Log, RefusedError, Settings, compile_network
from hsm_export.building.portable.device import Device
from hsm_export.building.portable.running import EngineRunner, _narrow, _widen
from hsm_operators.shift_mix.oracle import token_shift

SHAPES = [{"x": ((1, 1, 12), (1, 1, 12), (1, 1, 12))}, {"x": ((1, 2, 12), (2, 8, 12), (4, 16, 12))}]


def engine(tmp_path: Path, precision: str = "fp32") -> Path:
    model = one_node_model(tmp_path / "m.onnx", "TokenShift", precision)
    settings = Settings("TensorRT", profiles=SHAPES)
    compiled = compile_network(
        FakeTensorRT(),
        network_bytes(model, plugins=()),
        str(model),
        settings,
        lambda _phase: None,
        Log(lambda *_: None),
    )
    path = tmp_path / "model.engine"
    path.write_bytes(compiled.engine)
    return path


def runner(path: Path, driver: Driver) -> EngineRunner:
    return EngineRunner(FakeTensorRT(), path, Device(driver), Log(lambda *_: None))


def test_an_engine_runs_in_every_profile_and_gives_its_memory_back(tmp_path: Path) -> None:
    driver = Driver()
    running = runner(engine(tmp_path), driver)
    rng = np.random.default_rng(5)
    for batch, length in ((1, 1), (4, 16), (2, 3)):
        x = rng.standard_normal((batch, length, 12))
        (y,) = running.run({"x": x}).values()
        expected = token_shift(x.astype(np.float32), SIGNATURES["TokenShift"][2]["shifts"])
        np.testing.assert_array_equal(y, expected)
        assert y.dtype == np.float32
    assert driver.memory == {}


def test_half_precision_is_cast(tmp_path: Path) -> None:
    running = runner(engine(tmp_path, "fp16"), Driver())
    (y,) = running.run({"x": np.ones((1, 2, 12))}).values()
    assert y.dtype == np.float16


def test_shapes_outside_every_profile_are_refused(tmp_path: Path) -> None:
    driver = Driver()
    with pytest.raises(RefusedError, match=r"no profile .* x \(5, 2, 12\)"):
        runner(engine(tmp_path), driver).run({"x": np.ones((5, 2, 12))})
    assert driver.memory == {}


def test_what_the_driver_refuses_is_told_and_memory_is_given_back(tmp_path: Path) -> None:
    driver = Driver()
    running = runner(engine(tmp_path), driver)
    driver.broken = "cuMemcpyDtoH_v2"
    with pytest.raises(RefusedError, match="error 2 in cuMemcpyDtoH_v2") as caught:
        running.run({"x": np.ones((1, 1, 12))})
    assert caught.value.kind == "memory"
    assert driver.memory == {}


def test_without_a_driver_the_sentence_says_where_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> Any:
        raise OSError

    monkeypatch.setattr(device_module.ctypes, "CDLL", missing)
    with pytest.raises(RefusedError, match="no NVIDIA driver is installed"):
        Device()


def test_a_gpu_is_named_with_its_architecture() -> None:
    assert Device(Driver()).name == "Imaginary GPU (sm89)"


def test_an_engine_that_does_not_load_is_refused(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    trt.Runtime = lambda _logger: type("R", (), {"deserialize_cuda_engine": lambda *_: None})()  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match=r"model\.engine cannot be loaded"):
        EngineRunner(trt, engine(tmp_path), Device(Driver()), Log(lambda *_: None))


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan() -> None:
    import ml_dtypes

    rng = np.random.default_rng(1)
    values = np.concatenate(
        [
            rng.standard_normal(1000).astype(np.float32),
            np.array([0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875, 3.4e38], np.float32),
        ]
    )
    bits = _narrow(values, "BF16")
    np.testing.assert_array_equal(bits, values.astype(ml_dtypes.bfloat16).view(np.uint16))
    np.testing.assert_array_equal(_widen(bits, "BF16"), values.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert np.isnan(_widen(_narrow(np.array([np.nan], np.float32), "BF16"), "BF16")).all()
