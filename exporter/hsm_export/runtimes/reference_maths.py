"""PyTorch as what others are held to: without gradients, and without the kernels that are judged by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hsm_operators import use_kernels


@contextlib.contextmanager
def reference_maths() -> Iterator[None]:
    """Run PyTorch in inference mode, its `hsm` operators by their reference maths whatever the user's switch says."""
    import torch

    with torch.inference_mode(), use_kernels(False):
        yield
