"""Token positions: absolute ones, sinusoids and rotations. Tables are made on the fly, so no length is built in."""

from __future__ import annotations

import torch
from torch import Tensor

from hsm_operators.precision import accumulator


def absolute_positions(x: Tensor, position: Tensor | None = None) -> Tensor:
    """Return the absolute position of each token of x (B,T,...): (1,T) int64, or (B,T) with `position` (B,) given."""
    steps = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    return steps if position is None else position.unsqueeze(1) + steps


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return sin(p w_i) in the even and cos(p w_i) in the odd channels, w_i = 10000^(-2i/width).

    Angles are float32 at least, whatever the dtype of the result.

    Args:
        positions: (...,) int64; negative ones are fine.
        width: number of channels.
        dtype: dtype of the result.

    Returns:
        (..., width).
    """
    angles = _angles(positions, width, 10000.0, dtype)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :width].to(dtype)


def rotary_tables(positions: Tensor, channels: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return RoPE's cosines and sines, each (1 or B, T, 1, channels / 2), of positions (1 or B, T).

    Angles are float32 at least, whatever the dtype of the result: half precision cannot even count the tokens.
    """
    angles = _angles(positions, channels, base, dtype).unsqueeze(2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the first channels of x (B,T,H,f), paired half against half (RoPE); the rest stays as it is."""
    cos, sin = tables
    half = cos.shape[-1]
    unturned = x.shape[-1] - 2 * half
    first, second, *rest = x.split([half, half, unturned] if unturned else [half, half], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, *rest), dim=-1)


def _angles(positions: Tensor, channels: int, base: float, dtype: torch.dtype) -> Tensor:
    """Return p * base^(-2i/channels), (..., ceil(channels / 2))."""
    precise = accumulator(dtype)
    exponents = torch.arange(0, channels, 2, device=positions.device, dtype=precise) / channels
    return positions.to(precise).unsqueeze(-1) * torch.pow(base, -exponents)
