"""Is there an NVIDIA driver with a GPU?  Asked through libcuda itself, so that no CUDA package is needed."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver as a process sees it.

    Attributes:
        version: newest CUDA version that the driver supports ("13.0"), or None when it did not start.
        devices: name and architecture of each GPU, such as "NVIDIA L4 (sm89)".
        reason: why there is no usable GPU; None when there is one.
    """

    version: str | None
    devices: tuple[str, ...]
    reason: str | None


def probe() -> Driver:
    """Ask the driver for its version and GPUs; never raises."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Driver(None, (), "no NVIDIA driver is installed")
    try:
        return _ask(library)
    except (AttributeError, ctypes.ArgumentError, ValueError) as error:
        return Driver(None, (), f"the NVIDIA driver library is unusable: {error}")


def _ask(library: ctypes.CDLL) -> Driver:
    status = library.cuInit(0)
    if status != 0:
        return Driver(None, (), f"the NVIDIA driver reports error {status} at its start")
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGetCount(ctypes.byref(count))
    devices = tuple(_device(library, index) for index in range(count.value))
    text = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Driver(text, devices, None if devices else "the NVIDIA driver sees no GPU")


def _device(library: ctypes.CDLL, index: int) -> str:
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    major, minor = (_attribute(library, handle, which) for which in (75, 76))
    return f"{name.value.decode(errors='replace')} (sm{major}{minor})"


def _attribute(library: ctypes.CDLL, handle: ctypes.c_int, which: int) -> int:
    """Read a CUdevice_attribute: 75 and 76 are the two parts of the compute capability."""
    value = ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(value), which, handle)
    return value.value
