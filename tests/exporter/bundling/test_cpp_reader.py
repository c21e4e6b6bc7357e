"""The C++ runtime takes and refuses what Python takes and refuses, through its C interface."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from tests.exporter.bundling.hostile import CASES, HARMLESS, write
from tests.plugins.native import BUILD

from hsm_export.native import find_library

LIBRARY = "libhsm_runtime.so"


class Error(ctypes.Structure):
    """`hsmrt_error`."""

    _fields_ = (("message", ctypes.c_char * 1024),)


@pytest.fixture(scope="module")
def runtime() -> ctypes.CDLL:
    """The runtime library: of the native build, or installed."""
    built = BUILD / "runtime" / LIBRARY
    path = built if built.is_file() else find_library(LIBRARY)
    if path is None:
        pytest.skip(f"there is no {LIBRARY}; `make cpp-test` builds it")
    return ctypes.CDLL(str(path))


def refusal(runtime: ctypes.CDLL, bundle: Path) -> str | None:
    """Return why the library refuses a bundle, None when it takes it."""
    handle, error = ctypes.c_void_p(), Error()
    code = runtime.hsmrt_bundle_open(str(bundle).encode(), 1, ctypes.byref(handle), ctypes.byref(error))
    if code == 0:
        runtime.hsmrt_bundle_close(handle)
        return None
    return str(error.message.decode(errors="replace"))


@pytest.mark.parametrize("name", CASES)
def test_refused(runtime: ctypes.CDLL, good: Path, tmp_path: Path, name: str) -> None:
    message = refusal(runtime, write(good, tmp_path / "bundle.hsm", CASES[name]))
    assert message and message.isprintable()


@pytest.mark.parametrize("name", HARMLESS)
def test_accepted(runtime: ctypes.CDLL, good: Path, tmp_path: Path, name: str) -> None:
    assert refusal(runtime, write(good, tmp_path / "bundle.hsm", HARMLESS[name])) is None


def test_real_bundle(runtime: ctypes.CDLL, language_bundle: Path) -> None:
    assert refusal(runtime, language_bundle) is None
