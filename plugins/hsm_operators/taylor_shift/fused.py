"""The gradient of TaylorShift and of its causal form by Triton kernels: `triton_direct` and `triton_features`.

Nothing is kept of the forward pass, nothing of T x T or T x F is ever in memory, and nothing waits for the GPU. Queries
beyond a row's length count as not there: whatever gradient arrives at them is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..fused_gradient import FusedGradient, product_type

EPS = 1e-12
WIDEST = 128
_LEAST_BLOCK = 16  # of a product


@dataclass(frozen=True)
class _Call:
    """One call: its tensors as the kernels take them.

    Attributes:
        q, k, v, dy: (B,T,H,width), contiguous.
        q_factor, k_factor: (B,H,T) float32, what makes q̂ and k̂ of q and k.
        lengths: (B,) int64.
        causal: whether query n sees keys up to n only.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    dy: Tensor
    q_factor: Tensor
    k_factor: Tensor
    lengths: Tensor
    causal: bool

    @property
    def rows(self) -> tuple[int, int, int]:
        batch, length, heads, _ = self.q.shape
        return batch, heads, length

    def grid(self, block: int) -> tuple[int, int]:
        batch, heads, length = self.rows
        return -(-length // block), batch * heads


def _takes(needed: list[int], inputs: Sequence[Any]) -> bool:
    """Return whether `gradient` knows a call of taylor_shift or, with lengths, taylor_shift_masked."""
    normalize, _, form = inputs[-3:]
    q, k, v = inputs[:3]
    return form == "auto" and takes(q, k, v, normalize)


def _compute(dy: Tensor, needed: list[int], *inputs: Any) -> dict[int, Tensor]:
    q, k, v, temperature, *lengths, normalize, output_norm, _ = inputs
    direct = q.shape[1] <= 2 * feature_count(q.shape[3])
    return gradient(dy, q, k, v, temperature, lengths[0] if lengths else None, normalize, output_norm, direct)


FUSED = FusedGradient(_compute, _takes)


def takes(q: Tensor, k: Tensor, v: Tensor, normalize: bool) -> bool:
    """Return whether the kernels know these tensors. Weights of vectors of any length do not fit into float16."""
    batch, length, heads, width = q.shape
    value_width = v.shape[3]
    # Blocks of a grid, and offsets within a row of the batch.
    fits = 0 < batch * heads <= 65535 and 0 < length * heads * max(width, value_width) < 2**31
    fits = fits and 0 < width <= WIDEST and 0 < value_width <= WIDEST
    return fits and q.dtype == k.dtype == v.dtype and (normalize or q.dtype != torch.float16)


def feature_count(width: int) -> int:
    """Return F = 1 + d + d(d+1)/2."""
    return 1 + width + width * (width + 1) // 2


def gradient(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
    lengths: Tensor | None,
    normalize: bool,
    output_norm: bool = False,
    direct: bool = True,
    past: tuple[Tensor, Tensor] | None = None,
) -> dict[int, Tensor]:
    """Return the gradients of q, k, v and temperature by index, float32.

    Args:
        dy: (B,T,H,e), the gradient of the output.
        q, k: (B,T,H,d), float32, float16 or bfloat16, d up to WIDEST.
        v: (B,T,H,e) of the same type, e up to WIDEST.
        temperature: (H,).
        lengths: (B,) int64, or None: all tokens are valid.
        normalize, output_norm: see `taylor_shift`.
        direct: by pairs of tokens; False: by features.
        past: the causal form, and what it starts from: state (B,H,F,e) and norm (B,H,F), float32. It is direct.
    """
    batch, length, heads, width = q.shape
    if lengths is None:
        lengths = torch.full((batch,), length, dtype=torch.int64, device=q.device)
    lengths = lengths.clamp(0, length)
    tau = temperature.float()[:, None] if normalize else torch.ones((heads, 1), device=q.device)
    q_inverse, k_inverse = (_inverse_lengths(x, normalize) for x in (q, k))
    own_q, own_k, own_v, own_dy = (x.contiguous() for x in (q, k, v, dy.to(q.dtype)))
    q_factor = (q_inverse * tau).contiguous()
    call = _Call(own_q, own_k, own_v, own_dy, q_factor, k_inverse, lengths, causal=past is not None)
    scale = (lengths / width).sqrt() if output_norm else torch.ones_like(lengths)
    scale = scale.float()[:, None, None]
    of_q, of_k, of_v = _by_pairs(call, scale, past) if direct else _by_features(call, scale)
    if not normalize:
        return {0: of_q, 1: of_k, 2: of_v, 3: torch.zeros_like(temperature, dtype=torch.float32)}
    of_q, along = _through_length(of_q, q, q_inverse, lengths)
    of_k, _ = _through_length(of_k, k, k_inverse, lengths)
    return {0: of_q * tau.view(1, 1, heads, 1), 1: of_k, 2: of_v, 3: along.sum((0, 1, 3))}


def _inverse_lengths(x: Tensor, normalize: bool) -> Tensor:
    """Return one over the lengths of the rows of x (B,T,H,d), or ones, as (B,H,T) float32."""
    batch, length, heads, _ = x.shape
    if not normalize:
        return torch.ones((batch, heads, length), device=x.device)
    return (1 / x.float().norm(dim=-1).clamp(min=EPS)).transpose(1, 2).contiguous()


def _through_length(gradient: Tensor, x: Tensor, inverse: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of x from that of x/|x|, and (B,T,H,1) how much of the latter lies along x/|x|."""
    keep = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, :, None, None]
    own = inverse.transpose(1, 2).unsqueeze(-1)
    # What stands in padding may be anything, NaN too.
    unit = torch.where(keep, x.float() * own, 0)
    along = (unit * gradient).sum(-1, keepdim=True)
    return torch.where(keep, (gradient - unit * along) * own, 0), along


def _by_pairs(call: _Call, scale: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q̂, k̂ and v by the direct form; `scale` (B,1,1) is what outputs were multiplied with."""
    from . import triton_direct as kernels

    ones = call.q_factor.new_ones(call.rows)
    if past is None:
        denominator, delta, started = torch.zeros_like(ones), torch.zeros_like(ones), None
    else:
        started = (past[0].ne(0).flatten(2).any(-1) | past[1].ne(0).any(-1)).int()
        denominator, delta = _statistics(call, *past, started)
    sizes, options = _direct_options(call)
    inputs = (call.q, call.k, call.v, call.dy, call.q_factor, call.k_factor, call.lengths)
    rows, keys = options["ROWS"], options["KEYS"]
    kernels.statistics[call.grid(rows)](*inputs, denominator, delta, *sizes, **options)
    share, delta = _shares(denominator, delta, scale)
    if past is None or started is None:
        of_q = torch.zeros_like(call.q, dtype=torch.float32)
    else:
        of_q, _ = _through(call, call.q, call.q_factor, call.dy, share, -delta, past, started)
    kernels.of_queries[call.grid(rows)](*inputs, share, delta, of_q, *sizes, **options)
    of_k, of_v = (torch.zeros_like(x, dtype=torch.float32) for x in (call.k, call.v))
    lift = 1.0 if call.causal else float(2 ** max(call.rows[2].bit_length() - 2, 0))
    kernels.of_keys[call.grid(keys)](*inputs, share, delta, of_k, of_v, *sizes, lift, **options)
    return of_q, of_k, of_v


def _by_features(call: _Call, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same by the efficient form."""
    ones = call.q_factor.new_ones(call.rows)
    started = torch.ones(call.rows[:2], dtype=torch.int32, device=ones.device)
    sums = _accumulate(call, call.k, call.k_factor, call.v, ones, ones, weighted=False)
    denominator, delta = _statistics(call, *sums, started)
    share, delta = _shares(denominator, delta, scale)
    of_q, _ = _through(call, call.q, call.q_factor, call.dy, share, -delta, sums, started)
    lift = float(2 ** max(call.rows[2].bit_length() - 2, 0))
    back = _accumulate(call, call.q, call.q_factor, call.dy, share, -share * delta, weighted=True, lift=lift)
    of_k, of_v = _through(call, call.k, call.k_factor, call.v, ones, ones, back, started, values=True)
    return of_q, of_k, of_v


def _shares(denominator: Tensor, along: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return a_n and delta_n. Each valid key adds at least 1/2; where there is none, nothing is to be divided."""
    safe = torch.where(denominator == 0, 1, denominator)
    return (scale / safe).contiguous(), along / safe


def _direct_options(call: _Call) -> tuple[tuple[int, int], dict[str, Any]]:
    width, value_width = call.q.shape[3], call.v.shape[3]
    wide = max(width, value_width) > 64
    # Tiles that fit the shared memory of a block on every GPU since sm_80, in two stages of a loop.
    block = 32 if call.q.dtype == torch.float32 or wide else 64
    options = {
        "D": width,
        "E": value_width,
        "BLOCK_D": _block(width),
        "BLOCK_E": _block(value_width),
        "ROWS": block,
        "KEYS": block,
        "TYPE": product_type(call.q.dtype),
        "CAUSAL": call.causal,
        "num_warps": 8 if call.q.dtype == torch.float32 else 4,
        "num_stages": 1 if wide else 2,
    }
    return (call.q.shape[1], call.q.shape[2]), options


def _block(width: int) -> int:
    """Return the power of two that a tile of this width has."""
    return max(1 << (width - 1).bit_length(), _LEAST_BLOCK)


def _feature_options(call: _Call, x: Tensor, y: Tensor) -> dict[str, Any]:
    block = 32 if x.dtype == torch.float32 else 64
    width = x.shape[3]
    # Warps as many as keep the numbers of a tile in registers.
    return {
        "D": width,
        "E": y.shape[3],
        "F": feature_count(width),
        "BLOCK_E": _block(y.shape[3]),
        "ROWS": block,
        "FEATURES": block,
        "TYPE": product_type(x.dtype, sums=True),
        "num_warps": 8,
        "num_stages": 1,
    }


def _tables(width: int, weighted: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return which numbers each feature multiplies, `width` standing for 1, and the features' weights, (F,) each."""
    row = torch.arange(width * (width + 1) // 2, device=device)
    own, one = torch.arange(width, device=device), torch.full((width + 1,), width, device=device)
    first = torch.cat((one[:1], own, row % width))
    second = torch.cat((one, (row + row // width) % width))
    weight = torch.ones(len(first), device=device)
    if weighted:
        weight[1 + width : 1 + 2 * width] = 0.5
    return first.int(), second.int(), weight


def _accumulate(
    call: _Call,
    x: Tensor,
    factor: Tensor,
    y: Tensor,
    scale: Tensor,
    constant: Tensor,
    weighted: bool,
    lift: float = 1.0,
) -> tuple[Tensor, Tensor]:
    from . import triton_features as kernels

    options = _feature_options(call, x, y)
    batch, heads, length = call.rows
    sums = torch.empty((batch, heads, options["F"], options["E"]), device=x.device)
    norms = torch.empty((batch, heads, options["F"]), device=x.device)
    grid = (-(-options["F"] // options["FEATURES"]), batch * heads)
    tables = _tables(x.shape[3], weighted, x.device)
    kernels.accumulate[grid](
        x, factor, y, scale, constant, call.lengths, *tables, sums, norms, length, heads, lift, **options
    )
    return sums, norms


def _statistics(call: _Call, sums: Tensor, norms: Tensor, started: Tensor) -> tuple[Tensor, Tensor]:
    from . import triton_features as kernels

    options = _feature_options(call, call.q, call.dy)
    _, heads, length = call.rows
    denominator, delta = torch.empty_like(call.q_factor), torch.empty_like(call.q_factor)
    kernels.statistics[call.grid(options["ROWS"])](
        call.q,
        call.q_factor,
        call.dy,
        call.lengths,
        started,
        *_tables(call.q.shape[3], True, call.q.device),
        sums.contiguous(),
        norms.contiguous(),
        denominator,
        delta,
        length,
        heads,
        **options,
    )
    return denominator, delta


def _through(
    call: _Call,
    x: Tensor,
    factor: Tensor,
    y: Tensor,
    scale: Tensor,
    constant: Tensor,
    sums: tuple[Tensor, Tensor],
    started: Tensor,
    values: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of x̂, and with `values` that of v; queries' features have weights, keys' have none."""
    from . import triton_features as kernels

    options = _feature_options(call, x, y)
    _, heads, length = call.rows
    found = torch.empty_like(x, dtype=torch.float32)
    found_values = torch.empty_like(y, dtype=torch.float32) if values else found
    kernels.through[call.grid(options["ROWS"])](
        x,
        factor,
        y,
        scale,
        constant,
        call.lengths,
        started,
        *_tables(x.shape[3], not values, x.device),
        *(part.contiguous() for part in sums),
        found,
        found_values,
        length,
        heads,
        BLOCK_D=_block(x.shape[3]),
        VALUES=values,
        **options,
    )
    return found, found_values
