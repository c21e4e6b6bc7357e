"""Pick rows along time, a different choice for each sequence of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return x[b, index[b, i]] for every b and i.

    One Gather of whole rows in an exported graph, where `torch.gather` would need an index for every element.

    Args:
        x: (B,S,...).
        index: (B,R) int64, each in 0..S-1.

    Returns:
        (B,R,...).
    """
    batch, length = x.shape[:2]
    first = torch.arange(batch, device=x.device).unsqueeze(1) * length
    return x.flatten(0, 1)[first + index]
