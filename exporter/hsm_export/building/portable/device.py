"""The GPU's memory through the driver's own library, so that no CUDA package is needed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from .compiling import RefusedError

Array = Any  # np.ndarray; NumPy's generics say nothing here


class Device:
    """The first GPU: its memory and one stream, in the context that TensorRT uses too.

    Args:
        library: stands in for the driver's library; None loads it.

    Raises:
        RefusedError: there is no driver or no GPU.
    """

    def __init__(self, library: Any = None) -> None:
        self._cuda = library or _driver()
        self._call("cuInit", 0)
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream.value or 0
        self.name = self._describe(device)

    def upload(self, array: Array) -> int:
        """Copy an array to new memory and return its address; an empty array gets memory too."""
        array = np.ascontiguousarray(array)
        address = self.allocate(array.nbytes)
        if array.nbytes:
            source = array.ctypes.data_as(ctypes.c_void_p)
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))
        return address

    def allocate(self, size: int) -> int:
        """Return the address of new memory of at least this many bytes."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def download(self, address: int, array: Array) -> None:
        """Wait for the stream, then fill a contiguous array from an address."""
        self.wait()
        if array.nbytes:
            target = array.ctypes.data_as(ctypes.c_void_p)
            self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def wait(self) -> None:
        """Wait until the stream has done all its work."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _describe(self, device: ctypes.c_int) -> str:
        name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGetName", name, len(name), device)
        # CUdevice_attribute 75 and 76 are the two parts of the compute capability.
        self._call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
        self._call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
        return f"{name.value.decode(errors='replace')} (sm{major.value}{minor.value})"

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._cuda, function)(*arguments)
        if status != 0:
            kind = "memory" if status == 2 else "missing"
            raise RefusedError(f"the NVIDIA driver reports error {status} in {function}", kind, "run nvidia-smi")


def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise RefusedError("no NVIDIA driver is installed", "missing", "run this on the GPU machine") from error
