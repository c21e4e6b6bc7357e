"""CUDA kernels under the host shim: an ordinary compiler's code, whose blocks run on the CPU and are watched."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping
from pathlib import Path

from ..kernels import Kernel, KernelLibrary
from ..operator import Operator
from .implementations import KernelOf
from .subject import Array, Attributes

_ORDERS = 3  # of threads and blocks: forward, reverse, shuffled


class EmulatedLibrary(KernelLibrary):
    """A library `lib<name>_emulated.so`.

    Args:
        path: the shared library.

    Raises:
        OSError: it cannot be loaded, or is none of this version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._library.hsm_kernels_tactics.restype = ctypes.c_char_p

    def tactics(self, operator: Operator) -> dict[str, EmulatedKernel]:
        """Return an operator's kernel by the name of each tactic; {} where the library has none of it."""
        kernel, index = self.kernel(operator), self.index(operator)
        if kernel is None or index is None:
            return {}
        names = self._library.hsm_kernels_tactics(index).decode().split(",")
        return {name: EmulatedKernel(kernel, f"cuda {name}", self, number) for number, name in enumerate(names)}

    def emulate(self, tactic: int, order: int) -> None:
        """Choose the tactic of the next calls, and in which order threads and blocks run: 0, 1 or 2."""
        self._library.hsm_kernels_emulate(tactic, order)


class EmulatedKernel(KernelOf):
    """One tactic of a CUDA kernel; each call runs threads and blocks in another order than the one before.

    Args:
        kernel: what computes.
        name: what reports call it.
        library: where it is from.
        tactic: its number.
    """

    def __init__(self, kernel: Kernel, name: str, library: EmulatedLibrary, tactic: int) -> None:
        super().__init__(kernel, name)
        self._library, self._tactic = library, tactic
        self._orders = itertools.cycle(range(_ORDERS))

    def _run(
        self, operator: Operator, attributes: Attributes, inputs: Mapping[str, Array], dtype: str, *, in_place: bool
    ) -> list[Array]:
        self._library.emulate(self._tactic, next(self._orders))
        return super()._run(operator, attributes, inputs, dtype, in_place=in_place)
