"""The gradient of ShiftMix by a Triton kernel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fused_gradient import FusedGradient

_ROWS = 32
_COLUMNS = 64


def gradient(
    dy: Tensor, needed: list[int], x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]
) -> dict[int, Tensor]:
    """Return the gradients of x (B,T,D) in its type and of alpha and beta (D,) in float32, by index.

    Sums over tokens have one order: the same input gives the same bits.
    """
    from . import triton_kernels as kernels

    batch, length, width = x.shape
    blocks = -(-length // _ROWS)
    own_dy, own_x = dy.to(x.dtype).contiguous(), x.contiguous()
    found = torch.empty_like(own_x)
    of_alpha, of_beta = (torch.empty((batch, blocks, width), device=x.device) for _ in range(2))
    kernels.backward[-(-width // _COLUMNS), blocks, batch](
        own_dy,
        own_x,
        alpha.contiguous(),
        beta.contiguous(),
        _on_device(tuple(shifts), x.device),
        found,
        of_alpha,
        of_beta,
        length,
        width,
        width // len(shifts),
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
    )
    return {0: found, 1: of_alpha.sum((0, 1)), 2: of_beta.sum((0, 1))}


@functools.lru_cache(256)
def _on_device(shifts: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the shifts as a tensor, copied once: a copy would wait, and cannot be captured into a CUDA graph."""
    return torch.tensor(shifts, device=device)


def _takes(needed: list[int], inputs: Sequence[Any]) -> bool:
    x = inputs[0]
    # Blocks of a grid, and offsets within a row of the batch.
    return 0 < x.shape[0] <= 65535 and x.shape[1] <= 65535 * _ROWS and 0 < x.shape[1] * x.shape[2] < 2**31


FUSED = FusedGradient(gradient, _takes)
