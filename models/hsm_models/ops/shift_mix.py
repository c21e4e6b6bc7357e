"""Shift mix: y[b,t,c] = alpha[c] x[b,t,c] + beta[c] x[b,t-s(c),c] (arXiv:2601.22852, our reading)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import accumulator
from .registration import register, require
from .token_shift import channel_groups, check_ring, check_shifts, shift_groups_cached


def shift_mix(x: Tensor, alpha: Tensor, beta: Tensor, shifts: Sequence[int]) -> Tensor:
    """Mix every token with the one a fixed number of steps back.

    Args:
        x: (B,T,D), any float dtype.
        alpha, beta: (D,), weights of the token and of the shifted token.
        shifts: shifts >= 1 in tokens, one per equal group of channels.

    Returns:
        (B,T,D) of x's dtype.

    Raises:
        ValueError: shapes or shifts that contradict each other.
    """
    return _shift_mix(x, alpha, beta, list(shifts))


def shift_mix_cached(
    x: Tensor, alpha: Tensor, beta: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Continue `shift_mix` on rows whose last tokens are in a ring buffer; see `token_shift_cached`.

    Returns:
        y (B,T,D), unspecified beyond `lengths`, and the ring (B,R,D) after the valid new tokens.

    Raises:
        ValueError: shapes, dtypes or shifts that contradict each other.
    """
    y, ring_out = _shift_mix_cached(x, alpha, beta, ring, position, lengths, list(shifts))
    return y, ring_out


def _check_weights(x: Tensor, alpha: Tensor, beta: Tensor) -> None:
    for name, weight in (("alpha", alpha), ("beta", beta)):
        require(
            tuple(weight.shape) == (x.shape[2],), f"{name} must be ({x.shape[2]},) like D, got {tuple(weight.shape)}"
        )


def _reference(x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]) -> Tensor:
    check_shifts(x, shifts)
    _check_weights(x, alpha, beta)
    wide = accumulator(x.dtype)
    values, weight = x.contiguous().to(wide), beta.to(wide)
    y = values * alpha.to(wide)
    for channels, shift in channel_groups(x.shape[2], shifts):
        y[:, shift:, channels].addcmul_(values[:, :-shift, channels], weight[channels])
    return y.to(x.dtype)


def _gradient(
    output_gradient: Tensor, needed: list[int], x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]
) -> dict[int, Tensor]:
    wide = accumulator(x.dtype)
    grad, values = output_gradient.to(wide), x.to(wide)
    found: dict[int, Tensor] = {}
    if 0 in needed:
        found[0] = grad * alpha.to(wide)
        for channels, shift in channel_groups(x.shape[2], shifts):
            found[0][:, :-shift, channels].addcmul_(grad[:, shift:, channels], beta.to(wide)[channels])
    if 1 in needed:
        found[1] = (grad * values).sum((0, 1))
    if 2 in needed:
        found[2] = grad.new_empty(x.shape[2])
        for channels, shift in channel_groups(x.shape[2], shifts):
            found[2][channels] = (grad[:, shift:, channels] * values[:, :-shift, channels]).sum((0, 1))
    return found


def _cached_reference(
    x: Tensor, alpha: Tensor, beta: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    check_ring(x, ring, position, lengths, shifts)
    _check_weights(x, alpha, beta)
    shifted, ring_out = shift_groups_cached(x, ring, position, lengths, shifts)
    wide = accumulator(x.dtype)
    y = torch.addcmul(x.contiguous().to(wide) * alpha.to(wide), shifted.to(wide), beta.to(wide))
    return y.to(x.dtype), ring_out


def _fake(x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]) -> Tensor:
    return x.new_empty(x.shape)


def _cached_fake(
    x: Tensor, alpha: Tensor, beta: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), ring.new_empty(ring.shape)


_shift_mix = register(
    "shift_mix", "(Tensor x, Tensor alpha, Tensor beta, int[] shifts) -> Tensor", _reference, _fake, _gradient
)
_shift_mix_cached = register(
    "shift_mix_cached",
    "(Tensor x, Tensor alpha, Tensor beta, Tensor ring, Tensor position, Tensor lengths, int[] shifts)"
    " -> (Tensor, Tensor)",
    _cached_reference,
    _cached_fake,
)
