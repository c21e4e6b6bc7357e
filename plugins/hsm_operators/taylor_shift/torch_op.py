"""TaylorShift attention (arXiv:2403.02920): softmax with its exponential replaced by 1 + t + t²/2.

With q̂ = tau q/|q| and k̂ = k/|k| (or q and k themselves, when not normalised):

    y_n = sum_m p(q̂_n·k̂_m) v_m / sum_m p(q̂_n·k̂_m),   p(t) = 1 + t + t²/2

The direct form costs O(N² (d + e)). The efficient form uses p(q·k) = phi(q)·W phi(k) with the features

    phi(x) = (1, x, x_i x_((i+delta) mod d)),  W = (1, 1, 1/2 for delta = 0, else 1)

where delta = 0..⌊d/2⌋ counts each product of the symmetric square once: F = 1 + d + d(d+1)/2 features, O(N d² e) for
values of width e.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import accumulator
from ..registration import register, require
from .fused import FUSED, feature_count

__all__ = ["feature_count", "taylor_shift", "taylor_shift_direct", "taylor_shift_efficient", "taylor_shift_masked"]

FORMS = ("auto", "direct", "efficient")
EPS = 1e-12


def taylor_shift(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
    normalize: bool = True,
    output_norm: bool = False,
    form: str = "auto",
) -> Tensor:
    """Attend to all tokens.

    Args:
        q, k: (B,T,H,d), any float dtype.
        v: (B,T,H,e) of the same dtype.
        temperature: (H,), tau per head; ignored unless `normalize`.
        normalize: scale q to length tau and k to length 1.
        output_norm: multiply the output by sqrt(N / d).
        form: "direct", "efficient", or "auto": direct up to N0 = (d² + d + 1) 2e/(d + e) tokens, which is d² + d + 1
            where e = d. The value does not depend on it.

    Returns:
        (B,T,H,e) of q's dtype.

    Raises:
        ValueError: shapes that contradict each other, or an unknown form.
    """
    return _taylor_shift(q, k, v, temperature, normalize, output_norm, form)


def taylor_shift_masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
    lengths: Tensor,
    normalize: bool = True,
    output_norm: bool = False,
    form: str = "auto",
) -> Tensor:
    """Attend to the first `lengths[b]` tokens of each row only; N is that number (our extension).

    Args:
        lengths: (B,) int64, 1..T.

    The other arguments, the result and the errors are those of `taylor_shift`.
    """
    return _taylor_shift_masked(q, k, v, temperature, lengths, normalize, output_norm, form)


def taylor_shift_direct(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return sum_m p(q_n·k_m) v_m / sum_m p(q_n·k_m) from the N x N scores.

    Args:
        q, k: (B,H,N,d), already normalised.
        v: (B,H,N,e+1), the values behind a column that is 1 for valid keys and 0 for masked ones.

    Returns:
        (B,H,N,e).
    """
    return _divide(polynomial(q @ k.transpose(-1, -2)) @ v)


def taylor_shift_efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the same as `taylor_shift_direct`, from the F x (e+1) sums over the keys."""
    sums = features(k).transpose(-1, -2) @ v
    return _divide(weighted_features(q) @ sums)


def polynomial(t: Tensor) -> Tensor:
    """Return p(t) = 1 + t + t²/2."""
    return torch.addcmul(t + 1, t, t, value=0.5)


def features(x: Tensor) -> Tensor:
    """Return phi(x), (…,d) -> (…,F), with the rows of the causal operator's state: 1, x, packed products."""
    return torch.cat((torch.ones_like(x[..., :1]), x, _packed_products(x)), dim=-1)


def weighted_features(x: Tensor) -> Tensor:
    """Return W phi(x), the query's side: (…,d) -> (…,F)."""
    width = x.shape[-1]
    weight = x.new_ones(width * (width + 1) // 2)
    weight[:width] = 0.5
    return torch.cat((torch.ones_like(x[..., :1]), x, _packed_products(x) * weight), dim=-1)


def _packed_products(x: Tensor) -> Tensor:
    """Return x_i x_((i+delta) mod d) with delta outermost, (…,d) -> (…,d(d+1)/2)."""
    width = x.shape[-1]
    turned = torch.cat((x, x[..., : width // 2]), dim=-1).unfold(-1, width, 1)
    return (x.unsqueeze(-2) * turned).flatten(-2)[..., : width * (width + 1) // 2]


def normalize_rows(q: Tensor, k: Tensor, temperature: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Return q and k (B,H,T,d) in the accumulator's dtype, scaled to lengths tau and 1 when `normalize`."""
    wide = accumulator(q.dtype)
    q, k = q.transpose(1, 2).to(wide).contiguous(), k.transpose(1, 2).to(wide).contiguous()
    if not normalize:
        return q, k
    tau = temperature.to(wide).reshape(1, -1, 1, 1)
    return F.normalize(q, dim=-1, eps=EPS) * tau, F.normalize(k, dim=-1, eps=EPS)


def check_heads(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> None:
    """Refuse q and k that are not (B,T,H,d) alike, v that is not (B,T,H,e), and a temperature that is not (H,)."""
    require(q.dim() == 4, f"q must be (B,T,H,d), got shape {tuple(q.shape)}")
    require(
        k.shape == q.shape and k.dtype == q.dtype,
        f"k must be {q.dtype} of shape {tuple(q.shape)} like q, got {k.dtype} of {tuple(k.shape)}",
    )
    require(
        v.dim() == 4 and v.shape[:3] == q.shape[:3] and v.shape[3] > 0 and v.dtype == q.dtype,
        f"v must be {q.dtype} of shape {(*q.shape[:3], 'e')} like q, got {v.dtype} of {tuple(v.shape)}",
    )
    require(
        tuple(temperature.shape) == (q.shape[2],),
        f"temperature must be ({q.shape[2]},), got {tuple(temperature.shape)}",
    )


def check_lengths(q: Tensor, lengths: Tensor) -> None:
    """Refuse lengths that are not int64 (B,)."""
    require(
        lengths.dtype == torch.int64 and tuple(lengths.shape) == (q.shape[0],),
        f"lengths must be int64 of shape ({q.shape[0]},), got {lengths.dtype} of shape {tuple(lengths.shape)}",
    )


def _divide(sums: Tensor) -> Tensor:
    return sums[..., 1:] / sums[..., :1]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, valid: Tensor, normalize: bool, output_norm: bool, form: str
) -> Tensor:
    """The maths of both operators; `valid` is (1 or B, 1, T, 1), 1 for keys that count and 0 for masked ones."""
    require(form in FORMS, f"form must be one of {', '.join(FORMS)}, got {form!r}")
    length, width, value_width = q.shape[1], q.shape[3], v.shape[3]
    qn, kn = normalize_rows(q, k, temperature, normalize)
    values = v.to(qn.dtype).transpose(1, 2) * valid
    columns = torch.cat((valid.expand(*values.shape[:3], 1), values), dim=-1)
    crossover = 2 * value_width * (width * width + width + 1) // (width + value_width)
    direct = form == "direct" or (form == "auto" and length <= crossover)
    y = taylor_shift_direct(qn, kn, columns) if direct else taylor_shift_efficient(qn, kn, columns)
    if output_norm:
        y = y * (valid.sum(dim=2, keepdim=True) / width).sqrt()
    return y.transpose(1, 2).to(q.dtype).contiguous()


def _reference(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, normalize: bool, output_norm: bool, form: str
) -> Tensor:
    check_heads(q, k, v, temperature)
    valid = torch.ones((1, 1, q.shape[1], 1), dtype=accumulator(q.dtype), device=q.device)
    return _attend(q, k, v, temperature, valid, normalize, output_norm, form)


def _masked_reference(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, lengths: Tensor, normalize: bool, output_norm: bool, form: str
) -> Tensor:
    check_heads(q, k, v, temperature)
    check_lengths(q, lengths)
    keep = torch.arange(q.shape[1], device=q.device) < lengths.unsqueeze(1)
    valid = keep.to(accumulator(q.dtype)).reshape(q.shape[0], 1, q.shape[1], 1)
    # A masked row may hold anything, NaN too, and zero times NaN would spread it.
    keep_rows = keep.reshape(q.shape[0], q.shape[1], 1, 1)
    k, v = torch.where(keep_rows, k, 0), torch.where(keep_rows, v, 0)
    return _attend(q, k, v, temperature, valid, normalize, output_norm, form)


def _fake(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, normalize: bool, output_norm: bool, form: str
) -> Tensor:
    return v.new_empty(v.shape)


def _masked_fake(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, lengths: Tensor, normalize: bool, output_norm: bool, form: str
) -> Tensor:
    return v.new_empty(v.shape)


_taylor_shift = register(
    "taylor_shift",
    "(Tensor q, Tensor k, Tensor v, Tensor temperature, bool normalize, bool output_norm, str form) -> Tensor",
    _reference,
    _fake,
    fused=FUSED,
)
_taylor_shift_masked = register(
    "taylor_shift_masked",
    "(Tensor q, Tensor k, Tensor v, Tensor temperature, Tensor lengths, bool normalize, bool output_norm, str form)"
    " -> Tensor",
    _masked_reference,
    _masked_fake,
    fused=FUSED,
)
