"""PyTorch as what others are held to: without gradients, and without the kernels that are judged by it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hsm_operators import use_kernels

from ..alone import ALONE
from .operator_calls import operators_called_by

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
    with (
        ALONE,
        torch.inference_mode(),
        without_autocast(),
        without_fast_path(),
        use_kernels(False),
        wide,
        _control_flow(),
    ):
        yield


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Switch off the automatic casts of a context around the block, such as a training script's."""
    import torch

    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextlib.contextmanager
def without_fast_path() -> Iterator[None]:
    """Switch off the fused kernels of PyTorch's transformers around the block.

    With a padding mask they return zeros for padded tokens, and as many tokens as the longest row has.
    """
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _control_flow() -> Iterator[None]:
    """Run `torch.cond` and its like as they stand inside the block, where PyTorch would compile them."""
    utilities: Any = sys.modules.get("torch._higher_order_ops.utils")
    if utilities is None or not hasattr(utilities, "_hop_compile_and_call"):
        yield
        return
    own = utilities._hop_compile_and_call
    utilities._hop_compile_and_call = lambda function, args, kwargs=None, **_: function(*args, **(kwargs or {}))
    try:
        yield
    finally:
        utilities._hop_compile_and_call = own


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Make float64 of every float32 that is asked for by name or by default inside the block."""
    import torch

    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}

    def widened(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if operator is torch.ops.aten.view.dtype:  # that one reads the same bytes as another type
            return operator(*arguments, **options)
        values = [wide.get(value, value) if isinstance(value, torch.dtype) else value for value in arguments]
        named = {
            name: wide.get(value, value) if isinstance(value, torch.dtype) else value for name, value in options.items()
        }
        return operator(*values, **named)

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with operators_called_by(widened):
            yield
    finally:
        torch.set_default_dtype(before)
