"""Tensors on disk, so that no two runtimes' tensors have to be in memory at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_SMALL = 1 << 20
_HELD = 16 << 20  # bytes of small arrays that are in memory


class Spool:
    """Named arrays in a folder of its own, small ones in memory, taken out of one run or several.

    What a run looks at keeps the runtime from joining nodes there, so two runs may differ in the last places. Each
    layer is judged by tensors of a single run: that in which all it reads and writes was looked at.

    Args:
        folder: an existing empty folder.
        small: bytes up to which an array is not worth a file.
    """

    def __init__(self, folder: Path, small: int = _SMALL) -> None:
        self._folder = folder
        self._small = small
        self._places: dict[str, dict[int, Path | Array]] = {}
        self._runs: dict[int, int] = {}
        self._count = 0
        self._held = 0
        self.bytes = 0

    def write(self, name: str, array: Array, run: int = 0) -> None:
        """Store an array of a run; one that an earlier run gave to the bit is not stored again."""
        runs = self._places.setdefault(name, {})
        if run in runs:
            return
        for place in runs.values():
            if np.array_equal(_at(place), array, equal_nan=array.dtype.kind == "f"):
                runs[run] = place
                return
        # NumPy's format has no bfloat16; float32 holds every bfloat16 exactly.
        array = array if array.dtype.kind != "V" and array.dtype.name != "bfloat16" else array.astype(np.float32)
        runs[run] = self._kept(array)
        self.bytes += array.nbytes

    def _kept(self, array: Array) -> Path | Array:
        if array.nbytes <= self._small and self._held + array.nbytes <= _HELD:
            self._held += array.nbytes
            kept: Array = array.copy()
            return kept
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        np.save(path, array if array.dtype.kind != "O" else array.astype(str))  # objects cannot be mapped
        return path

    def assign(self, layers: Iterable[int], run: int) -> None:
        """Say in which run layers, by their positions, were looked at."""
        self._runs.update(dict.fromkeys(layers, run))

    def read(self, name: str, layer: int | None = None) -> Array | None:
        """Return an array that is mapped, not read; None when there is none of that name.

        Args:
            name: the tensor.
            layer: position of the layer that reads or writes it; its run's array is taken.
        """
        runs = self._places.get(name)
        if not runs:
            return None
        run = self._runs.get(layer, 0) if layer is not None else 0
        return _at(runs.get(run, next(iter(runs.values()))))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> tuple[str, ...]:
        """Return the names in the order in which they were written."""
        return tuple(self._places)


def _at(place: Path | Array) -> Array:
    array: Array = np.load(place, mmap_mode="r") if isinstance(place, Path) else place
    return array
