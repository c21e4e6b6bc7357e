"""Which parts of a half-precision model compute in more than half precision."""

from __future__ import annotations

import torch


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums, softmax, routing, positions and states: float64 for float64 tensors, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
