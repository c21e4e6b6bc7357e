"""The switch between an operator's fused kernel and its reference maths, in PyTorch."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextvars import ContextVar

VARIABLE = "HSM_TORCH_KERNELS"

_wanted: ContextVar[bool | None] = ContextVar("wanted", default=None)


@contextlib.contextmanager
def use_kernels(on: bool = True) -> Iterator[None]:
    """Choose how PyTorch computes the operators in this block or, as a decorator, in this function.

    It holds for this thread, and over the environment variable HSM_TORCH_KERNELS, which says 0 or 1 for a process; for
    tensors on the CPU and on CUDA. Without either, kernels are used. Both ways compute the same formula, with other
    roundings.

    Args:
        on: the fused kernels where there is one for the tensors at hand; False: the reference maths always.
    """
    token = _wanted.set(on)
    try:
        yield
    finally:
        _wanted.reset(token)


def kernels_wanted() -> bool:
    """Return what the switch says here.

    Raises:
        ValueError: HSM_TORCH_KERNELS is neither 0 nor 1.
    """
    wanted = _wanted.get()
    return _default() if wanted is None else wanted


@functools.cache
def _default() -> bool:
    value = os.environ.get(VARIABLE, "1")
    if value not in ("0", "1"):
        raise ValueError(f"{VARIABLE} is {value!r}; set it to 0 for PyTorch's own operators, or to 1 for the kernels")
    return value == "1"
