"""Which parts of a half-precision model compute in more than half precision."""

from __future__ import annotations

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of softmax, routing, positions and states: float64 in double models, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
