"""Pick rows along time, a different choice for each sequence of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return x[b, index[b, i]] for every b and i.

    One GatherND of whole rows in an exported graph, where `torch.gather` would need an index for every element.

    Args:
        x: (B,S,...).
        index: (B,R) int64, each in 0..S-1.

    Returns:
        (B,R,...).
    """
    return x[torch.arange(x.shape[0], device=x.device).unsqueeze(1), index]
