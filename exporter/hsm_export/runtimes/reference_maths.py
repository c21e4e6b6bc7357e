"""PyTorch as what others are held to: without gradients, and without the kernels that are judged by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hsm_operators import use_kernels

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def reference_maths(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Run PyTorch in inference mode, its `hsm` operators by their reference maths whatever the user's switch says.

    Args:
        dtype: the type that the module computes in. In float64 what its code casts to float32 stays float64, so that
            `.float()` costs the arbiter neither digits nor a mixture of types.
    """
    import torch

    wide = _wide() if dtype is torch.float64 else contextlib.nullcontext()
    with torch.inference_mode(), without_autocast(), use_kernels(False), wide:
        yield


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Switch off the automatic casts of a context around the block, such as a training script's."""
    import torch

    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Make float64 of every float32 that is asked for by name or by default inside the block."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}

    class Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is not torch.ops.aten.view.dtype:  # that one reads the same bytes as another type
                args = [wide.get(value, value) if isinstance(value, torch.dtype) else value for value in args]
                kwargs = {
                    name: wide.get(value, value) if isinstance(value, torch.dtype) else value
                    for name, value in kwargs.items()
                }
            return func(*args, **kwargs)

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Wide():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)
