"""Where the native half of this installation is: its record and its libraries, in the folder of hsm_export."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

KERNELS = "libhsm_kernels.so"
KERNELS_VARIABLE = "HSM_KERNELS_LIBRARY"
RECORD = "share/hsm/native.json"
CUDA_KERNELS = "libhsm_kernels_cuda.so"
CUDA_KERNELS_VARIABLE = "HSM_CUDA_KERNELS_LIBRARY"
_FOLDER = "hsm_export"


def folders() -> Iterator[Path]:
    """Yield the folders that may hold it: beside this package, and for an editable installation where it was built."""
    yield Path(__file__).parents[1] / _FOLDER
    try:
        yield Path(str(distribution("hsm-export").locate_file(_FOLDER)))
    except PackageNotFoundError:
        return


def build_record() -> dict[str, object] | None:
    """Return what the wheel's native build recorded (version, compiler, libraries), or None when there was none."""
    for folder in folders():
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            return record
    return None


def find_library(name: str) -> Path | None:
    """Return the path of a native library, or None when this installation lacks it."""
    return next((folder / "lib" / name for folder in folders() if (folder / "lib" / name).is_file()), None)


def kernels_path() -> Path | None:
    """Return the library of CPU kernels for PyTorch, or None when this installation lacks it.

    It is the one that HSM_KERNELS_LIBRARY names, such as a build of changed kernels, else the installed one.
    """
    named = os.environ.get(KERNELS_VARIABLE)
    return Path(named) if named else find_library(KERNELS)


def cuda_kernels_path() -> Path | None:
    """Return the library of CUDA kernels for PyTorch, or None when this installation lacks it.

    It is the one that HSM_CUDA_KERNELS_LIBRARY names, else the installed one.
    """
    named = os.environ.get(CUDA_KERNELS_VARIABLE)
    return Path(named) if named else find_library(CUDA_KERNELS)
