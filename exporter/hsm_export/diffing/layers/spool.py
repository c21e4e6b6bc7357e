"""Tensors on disk, so that no two runtimes' tensors have to be in memory at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Spool:
    """Named arrays in a folder of its own, taken out of one run or several.

    What a run looks at keeps the runtime from joining nodes there, so two runs may differ in the last places. Each
    layer is judged by tensors of a single run: that in which all it reads and writes was looked at.

    Args:
        folder: an existing empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, dict[int, Path]] = {}
        self._runs: dict[int, int] = {}
        self._count = 0
        self.bytes = 0

    def write(self, name: str, array: Array, run: int = 0) -> None:
        """Store an array of a run; one that an earlier run gave to the bit is not stored again."""
        runs = self._files.setdefault(name, {})
        if run in runs:
            return
        for path in runs.values():
            if np.array_equal(np.load(path, mmap_mode="r"), array, equal_nan=array.dtype.kind == "f"):
                runs[run] = path
                return
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        if array.dtype.kind == "O":
            array = array.astype(str)  # objects cannot be mapped
        # NumPy's format has no bfloat16; float32 holds every bfloat16 exactly.
        np.save(path, array if array.dtype.kind != "V" and array.dtype.name != "bfloat16" else array.astype(np.float32))
        runs[run] = path
        self.bytes += array.nbytes

    def assign(self, layers: Iterable[int], run: int) -> None:
        """Say in which run layers, by their positions, were looked at."""
        self._runs.update(dict.fromkeys(layers, run))

    def read(self, name: str, layer: int | None = None) -> Array | None:
        """Return an array that is mapped, not read; None when there is none of that name.

        Args:
            name: the tensor.
            layer: position of the layer that reads or writes it; its run's array is taken.
        """
        runs = self._files.get(name)
        if not runs:
            return None
        run = self._runs.get(layer, 0) if layer is not None else 0
        array: Array = np.load(runs.get(run, next(iter(runs.values()))), mmap_mode="r")
        return array

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> tuple[str, ...]:
        """Return the names in the order in which they were written."""
        return tuple(self._files)
