"""`hsm_export.doctor()`: what it finds out about GPUs, compilers and the native half."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from tests.exporter.runtimes.fused import needs_library

from hsm_export import diagnosis, native
from hsm_export.building import cuda_driver
from hsm_export.building.cuda_driver import Driver
from hsm_export.diagnosis import trial
from hsm_operators.installation import RECORD


class FakeDriver:
    """libcuda with one GPU, or with whatever error it is told to report."""

    def __init__(self, status: int = 0, gpus: int = 1) -> None:
        self.status, self.gpus = status, gpus

    def cuInit(self, _flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = 13000

    def cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.gpus

    def cuDeviceGet(self, handle: Any, index: int) -> None:
        handle._obj.value = index

    def cuDeviceGetName(self, name: Any, _size: int, _handle: Any) -> None:
        name.value = b"NVIDIA L4"

    def cuDeviceGetAttribute(self, value: Any, which: int, _handle: Any) -> None:
        value._obj.value = {75: 8, 76: 9}[which]


def load(monkeypatch: pytest.MonkeyPatch, driver: object) -> Driver:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: driver)
    return cuda_driver.probe()


def test_gpus_are_listed_with_their_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, FakeDriver()) == Driver("13.0", ("NVIDIA L4 (sm89)",), None)


def test_drivers_without_a_gpu_give_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "error 100" in str(load(monkeypatch, FakeDriver(status=100)).reason)
    assert "sees no GPU" in str(load(monkeypatch, FakeDriver(gpus=0)).reason)
    assert "unusable" in str(load(monkeypatch, object()).reason)


def test_no_driver_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_driver.probe().reason == "no NVIDIA driver is installed"


def test_a_failing_compiler_is_still_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert diagnosis._tools()[0].found == str(broken)


def test_the_native_half_is_read_from_its_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hsm_operators.installation.folders", lambda: iter([tmp_path]))
    (finding,) = diagnosis._native_findings([diagnosis.Tool("C++ compiler", None)])
    assert "install a C++ compiler" in str(finding.fix)
    assert list(diagnosis._native_libraries()) == []
    (tmp_path / RECORD).parent.mkdir(parents=True)
    (tmp_path / RECORD).write_text('{"libraries": ["libhsm.so", "libgone.so"]}')
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libhsm.so").touch()
    assert [tool.found for tool in diagnosis._native_libraries()] == [str(tmp_path / "lib" / "libhsm.so"), None]
    assert list(diagnosis._native_findings([])) == []


@needs_library
def test_this_installations_libraries_are_listed() -> None:
    assert diagnosis.Tool(native.CUSTOM_OPS, str(native.custom_ops_path())) in list(diagnosis._native_libraries())
    assert list(diagnosis._native_findings([])) == []
    assert trial._runtime_state("ort-fused").problem is None
