"""Shift mix: y[b,t,c] = alpha[c] x[b,t,c] + beta[c] x[b,t-s(c),c] (arXiv:2601.22852, our reading)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..precision import accumulator
from .registration import register, require
from .token_shift import check_ring, check_shifts, shift_groups, shift_groups_cached


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


def _mix(x: Tensor, shifted: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    wide = accumulator(x.dtype)
    return (x.to(wide) * alpha.to(wide) + shifted.to(wide) * beta.to(wide)).to(x.dtype)


def _reference(x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]) -> Tensor:
    check_shifts(x, shifts)
    _check_weights(x, alpha, beta)
    return _mix(x, shift_groups(x, shifts), alpha, beta)


def _cached_reference(
    x: Tensor, alpha: Tensor, beta: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    check_ring(x, ring, position, lengths, shifts)
    _check_weights(x, alpha, beta)
    shifted, ring_out = shift_groups_cached(x, ring, position, lengths, shifts)
    return _mix(x, shifted, alpha, beta), ring_out


def _fake(x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]) -> Tensor:
    return x.new_empty(x.shape)


def _cached_fake(
    x: Tensor, alpha: Tensor, beta: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), ring.new_empty(ring.shape)


_shift_mix = register("shift_mix", "(Tensor x, Tensor alpha, Tensor beta, int[] shifts) -> Tensor", _reference, _fake)
_shift_mix_cached = register(
    "shift_mix_cached",
    "(Tensor x, Tensor alpha, Tensor beta, Tensor ring, Tensor position, Tensor lengths, int[] shifts)"
    " -> (Tensor, Tensor)",
    _cached_reference,
    _cached_fake,
)
