"""Token shift and shift mix (arXiv:2601.22852, our reading): each group of channels reads a token some steps back.

token shift: y[b,t,c] = x[b,t-s(c),c], zero outside of the T tokens
shift mix:   y[b,t,c] = alpha[c] x[b,t,c] + beta[c] x[b,t-s(c),c]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import accumulator
from ..registration import register, require
from .fused import FUSED


def token_shift(x: Tensor, shifts: Sequence[int]) -> Tensor:
    """Return x shifted along time, one shift per equal group of channels.

    Args:
        x: (B,T,D), any float dtype.
        shifts: shifts in tokens, first group of channels first; their number divides D. 0 reads the token itself, a
            negative shift one that comes later: of a row that is padded on the right, the padding.

    Returns:
        (B,T,D) of x's dtype.

    Raises:
        ValueError: wrong rank, or shifts that are empty or whose number does not divide D.
    """
    return _token_shift(x, list(shifts))


def token_shift_cached(
    x: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return x shifted along time, continuing rows whose last tokens are in a ring buffer.

    Args:
        x: (B,T,D), the new tokens.
        ring: (B,R,D) of x's dtype, R >= max shift and R >= 1; the token at absolute position p is in slot p mod R.
        position: (B,) int64, tokens of each row that came before.
        lengths: (B,) int64, valid new tokens of each row, 0..T.
        shifts: as for `token_shift`, none of them negative: what comes later is not there yet.

    Returns:
        y (B,T,D), unspecified beyond `lengths`, and the ring after the valid new tokens.

    Raises:
        ValueError: shapes, dtypes or shifts that contradict each other.
    """
    y, ring_out = _token_shift_cached(x, ring, position, lengths, list(shifts))
    return y, ring_out


def check_shifts(x: Tensor, shifts: Sequence[int]) -> None:
    """Refuse inputs that are not (B,T,D) with one shift per equal group of channels."""
    require(x.dim() == 3, f"x must be (B,T,D), got shape {tuple(x.shape)}")
    require(len(shifts) > 0, "shifts must be a list of at least one integer")
    require(
        x.shape[2] % len(shifts) == 0,
        f"width {x.shape[2]} does not split into {len(shifts)} equal groups, one per shift",
    )


def check_ring(x: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: Sequence[int]) -> None:
    """Refuse a ring, positions or lengths that do not fit x and the shifts."""
    check_shifts(x, shifts)
    require(min(shifts) >= 0, f"shifts must be at least 0 where a ring holds the past, got {list(shifts)}")
    batch, _, width = x.shape
    require(
        ring.dim() == 3 and ring.shape[0] == batch and ring.shape[2] == width,
        f"ring must be (B,R,D) with B = {batch}, D = {width}, got shape {tuple(ring.shape)}",
    )
    require(ring.shape[1] >= 1, "ring has no rows; it needs at least one")
    require(ring.shape[1] >= max(shifts), f"ring has {ring.shape[1]} rows, fewer than the largest shift {max(shifts)}")
    require(ring.dtype == x.dtype, f"ring must be {x.dtype} like x, got {ring.dtype}")
    for name, value in (("position", position), ("lengths", lengths)):
        require(
            value.dtype == torch.int64 and tuple(value.shape) == (batch,),
            f"{name} must be int64 of shape ({batch},), got {value.dtype} of shape {tuple(value.shape)}",
        )


def channel_groups(width: int, shifts: Sequence[int]) -> list[tuple[slice, int]]:
    """Return the channels of each equal group, with the group's shift."""
    size = width // len(shifts)
    return [(slice(group * size, (group + 1) * size), shift) for group, shift in enumerate(shifts)]


def _spans(length: int, shift: int) -> tuple[slice, slice, slice]:
    """Return the tokens that read a token, the tokens that they read, and the tokens that read nothing."""
    distance = min(abs(shift), length)
    first, last = slice(0, length - distance), slice(distance, length)
    if shift >= 0:
        return last, first, slice(0, distance)
    return first, last, slice(length - distance, length)


def shift_groups_cached(
    x: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The maths of `token_shift_cached`: lay the ring's rows before x in the order of time, then shift."""
    rows, length = ring.shape[1], x.shape[1]
    absolute = position.unsqueeze(1) + torch.arange(-rows, 0, device=x.device)
    history = ring.gather(1, (absolute % rows).unsqueeze(2).expand(ring.shape))
    # Positions before the first token read zero, whatever the ring holds there (it may be NaN).
    visible = torch.where((absolute >= 0).unsqueeze(2), history, 0)
    timeline = torch.cat((visible, x), dim=1)
    groups = channel_groups(x.shape[2], shifts)
    y = torch.cat([timeline[:, rows - s : rows - s + length, channels] for channels, s in groups], dim=2)
    # Slot r keeps the newest position p = r (mod R) below the row's end; row p - position + R of the timeline holds it.
    end = (position + lengths).unsqueeze(1)
    newest = end - 1 - (end - 1 - torch.arange(rows, device=x.device)) % rows
    source = newest - position.unsqueeze(1) + rows
    kept = torch.cat((history, x), dim=1)
    return y, kept.gather(1, source.unsqueeze(2).expand(ring.shape))


def _reference(x: Tensor, shifts: list[int]) -> Tensor:
    check_shifts(x, shifts)
    y = x.new_empty(x.shape)
    for channels, shift in channel_groups(x.shape[2], shifts):
        readers, read, others = _spans(x.shape[1], shift)
        y[:, others, channels] = 0
        y[:, readers, channels] = x[:, read, channels]
    return y


def _gradient(output_gradient: Tensor, needed: list[int], x: Tensor, shifts: list[int]) -> dict[int, Tensor]:
    return {0: _reference(output_gradient, [-shift for shift in shifts])}


def _cached_reference(
    x: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    check_ring(x, ring, position, lengths, shifts)
    return shift_groups_cached(x, ring, position, lengths, shifts)


def _fake(x: Tensor, shifts: list[int]) -> Tensor:
    return x.new_empty(x.shape)


def _cached_fake(
    x: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), ring.new_empty(ring.shape)


_token_shift = register("token_shift", "(Tensor x, int[] shifts) -> Tensor", _reference, _fake, _gradient)
_token_shift_cached = register(
    "token_shift_cached",
    "(Tensor x, Tensor ring, Tensor position, Tensor lengths, int[] shifts) -> (Tensor, Tensor)",
    _cached_reference,
    _cached_fake,
)


def shift_mix(x: Tensor, alpha: Tensor, beta: Tensor, shifts: Sequence[int]) -> Tensor:
    """Mix every token with the one a fixed number of steps back, or ahead.

    Args:
        x: (B,T,D), any float dtype.
        alpha, beta: (D,), weights of the token and of the shifted token.
        shifts: as for `token_shift`.

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


def _mix_reference(x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]) -> Tensor:
    check_shifts(x, shifts)
    _check_weights(x, alpha, beta)
    wide = accumulator(x.dtype)
    values, weight = x.contiguous().to(wide), beta.to(wide)
    y = values * alpha.to(wide)
    for channels, shift in channel_groups(x.shape[2], shifts):
        readers, read, _ = _spans(x.shape[1], shift)
        y[:, readers, channels].addcmul_(values[:, read, channels], weight[channels])
    return y.to(x.dtype)


def _mix_gradient(
    output_gradient: Tensor, needed: list[int], x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]
) -> dict[int, Tensor]:
    wide = accumulator(x.dtype)
    grad, values = output_gradient.to(wide), x.to(wide)
    found: dict[int, Tensor] = {}
    if 0 in needed:
        found[0] = grad * alpha.to(wide)
        for channels, shift in channel_groups(x.shape[2], shifts):
            readers, read, _ = _spans(x.shape[1], shift)
            found[0][:, read, channels].addcmul_(grad[:, readers, channels], beta.to(wide)[channels])
    if 1 in needed:
        found[1] = (grad * values).sum((0, 1))
    if 2 in needed:
        found[2] = grad.new_empty(x.shape[2])
        for channels, shift in channel_groups(x.shape[2], shifts):
            readers, read, _ = _spans(x.shape[1], shift)
            found[2][channels] = (grad[:, readers, channels] * values[:, read, channels]).sum((0, 1))
    return found


def _mix_cached_reference(
    x: Tensor, alpha: Tensor, beta: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    check_ring(x, ring, position, lengths, shifts)
    _check_weights(x, alpha, beta)
    shifted, ring_out = shift_groups_cached(x, ring, position, lengths, shifts)
    wide = accumulator(x.dtype)
    y = torch.addcmul(x.contiguous().to(wide) * alpha.to(wide), shifted.to(wide), beta.to(wide))
    return y.to(x.dtype), ring_out


def _mix_fake(x: Tensor, alpha: Tensor, beta: Tensor, shifts: list[int]) -> Tensor:
    return x.new_empty(x.shape)


def _mix_cached_fake(
    x: Tensor, alpha: Tensor, beta: Tensor, ring: Tensor, position: Tensor, lengths: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), ring.new_empty(ring.shape)


_shift_mix = register(
    "shift_mix",
    "(Tensor x, Tensor alpha, Tensor beta, int[] shifts) -> Tensor",
    _mix_reference,
    _mix_fake,
    _mix_gradient,
    fused=FUSED,
)
_shift_mix_cached = register(
    "shift_mix_cached",
    "(Tensor x, Tensor alpha, Tensor beta, Tensor ring, Tensor position, Tensor lengths, int[] shifts)"
    " -> (Tensor, Tensor)",
    _mix_cached_reference,
    _mix_cached_fake,
)
