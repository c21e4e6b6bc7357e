"""The C interface of the runtime library, as a program in Python sees it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import onnxruntime
from hsm_export.native import find_library

LIBRARY = find_library("libhsm_runtime.so")


class Runtime:
    """The C interface; every failure is an exception."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(LIBRARY))

    def call(self, name: str, *arguments: object) -> None:
        error = ctypes.create_string_buffer(1024)
        code = getattr(self.library, name)(*arguments, error)
        assert code == 0, f"{name}: {error.value.decode()}"

    def session(self, path: Path) -> ctypes.c_void_p:
        opened, session, options = ctypes.c_void_p(), ctypes.c_void_p(), self.library.hsmrt_options_create
        options.restype = ctypes.c_void_p
        made = ctypes.c_void_p(options())
        (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
        self.call("hsmrt_options_set", made, b"onnxruntime_library", str(runtime).encode())
        self.call("hsmrt_options_set", made, b"shared_threads", b"0")
        self.call("hsmrt_options_set", made, b"spinning", b"0")
        self.call("hsmrt_options_set", made, b"threads", b"1")
        self.call("hsmrt_bundle_open", str(path).encode(), 1, ctypes.byref(opened))
        self.call("hsmrt_session_open", opened, 1, made, ctypes.byref(session))
        return session
