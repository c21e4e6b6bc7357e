"""Tensors on disk, so that no two runtimes' tensors have to be in memory at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Spool:
    """Named arrays in a folder of its own.

    Args:
        folder: an existing empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        self.bytes = 0

    def write(self, name: str, array: Array) -> None:
        """Store an array; a name that is there already keeps its first array."""
        if name in self._files:
            return
        path = self._folder / f"{len(self._files)}.npy"
        # NumPy's format has no bfloat16; float32 holds every bfloat16 exactly.
        np.save(path, array if array.dtype.kind != "V" and array.dtype.name != "bfloat16" else array.astype(np.float32))
        self._files[name] = path
        self.bytes += array.nbytes

    def read(self, name: str) -> Array | None:
        """Return an array that is mapped, not read; None when there is none of that name."""
        path = self._files.get(name)
        if path is None:
            return None
        array: Array = np.load(path, mmap_mode="r")
        return array

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> tuple[str, ...]:
        """Return the names in the order in which they were written."""
        return tuple(self._files)
