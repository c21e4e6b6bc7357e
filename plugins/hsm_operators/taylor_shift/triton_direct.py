"""The gradient of TaylorShift in its direct form as Triton kernels: nothing of T x T is ever in memory.

With t = q̂·k̂, p(t) = 1 + t + t²/2, y_n = w/den_n sum_m p(t_nm) v_m, den_n = sum_m p(t_nm), and a_n = w / den_n:

    delta_n = sum_m p(t_nm) dy_n·v_m / den_n
    dt_nm   = (1 + t_nm) (dy_n·v_m - delta_n) a_n
    dv_m    = sum_n p(t_nm) a_n dy_n,   dq̂_n = sum_m dt_nm k̂_m,   dk̂_m = sum_n dt_nm q̂_n

as in FlashAttention-2's backward pass (arXiv:2307.08691, algorithm 2) with p and p' = 1 + t for the exponential, which
needs no maximum. Norms enter as factors of rows in float32, so that what is multiplied are q and k as given. Each sum
has one order: the same input gives the same bits.

Tensors are (B,T,H,width), contiguous; per row (B,H,T) float32. Imported only where there is Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(base, rows, count, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, TYPE: tl.constexpr):
    """Return rows (len(rows),BLOCK) of a head, zero beyond `count` and WIDTH."""
    columns = tl.arange(0, BLOCK)
    mask = (rows < count)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(TYPE)


@triton.jit
def store_rows(base, rows, count, stride, values, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = (rows < count)[:, None] & (columns < WIDTH)[None, :]
    tl.store(base + rows[:, None] * stride + columns[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def weights(scores, rows, keys, valid, CAUSAL: tl.constexpr):
    """Return p(t) and p'(t), 0 for pairs of which one is padding or, when causal, the key comes later."""
    mask = (rows < valid)[:, None] & (keys < valid)[None, :]
    if CAUSAL:
        mask = mask & (keys[None, :] <= rows[:, None])
    return tl.where(mask, 1.0 + scores + 0.5 * scores * scores, 0.0), tl.where(mask, 1.0 + scores, 0.0)


@triton.jit
def statistics(
    q, k, v, dy, q_factor, k_factor, lengths, denominator, delta, length, heads,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, TYPE: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Add sums over the keys to den_n and to den_n delta_n; both hold what came before. Grid: row blocks x heads."""
    head = tl.program_id(1).to(tl.int64)
    start = head // heads * length * heads + head % heads  # in rows of one head
    valid = tl.load(lengths + head // heads)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own_q = load_rows(q + start * D, rows, valid, heads * D, D, BLOCK_D, TYPE)
    own_dy = load_rows(dy + start * E, rows, valid, heads * E, E, BLOCK_E, TYPE)
    factor = tl.load(q_factor + head * length + rows, mask=rows < valid, other=0.0)
    total = tl.load(denominator + head * length + rows, mask=rows < valid, other=0.0)
    along = tl.load(delta + head * length + rows, mask=rows < valid, other=0.0)
    end = valid
    if CAUSAL:
        end = tl.minimum(valid, (tl.program_id(0) + 1) * ROWS)
    for first in range(0, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        own_k = load_rows(k + start * D, keys, valid, heads * D, D, BLOCK_D, TYPE)
        own_v = load_rows(v + start * E, keys, valid, heads * E, E, BLOCK_E, TYPE)
        scale = tl.load(k_factor + head * length + keys, mask=keys < valid, other=0.0)
        scores = tl.dot(own_q, tl.trans(own_k), input_precision="ieee") * factor[:, None] * scale[None, :]
        weight, _ = weights(scores, rows, keys, valid, CAUSAL)
        total += tl.sum(weight, 1)
        along += tl.sum(weight * tl.dot(own_dy, tl.trans(own_v), input_precision="ieee"), 1)
    tl.store(denominator + head * length + rows, total, mask=rows < valid)
    tl.store(delta + head * length + rows, along, mask=rows < valid)


@triton.jit
def of_queries(
    q, k, v, dy, q_factor, k_factor, lengths, share, delta, found, length, heads,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, TYPE: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Add the gradient of q̂ to `found` (B,T,H,d) float32, which holds what came before. Grid: row blocks x heads.

    `share` is a_n. It is put on the sum, so that what is rounded to TYPE does not shrink with the number of keys.
    """
    head = tl.program_id(1).to(tl.int64)
    start = head // heads * length * heads + head % heads
    valid = tl.load(lengths + head // heads)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own_q = load_rows(q + start * D, rows, valid, heads * D, D, BLOCK_D, TYPE)
    own_dy = load_rows(dy + start * E, rows, valid, heads * E, E, BLOCK_E, TYPE)
    factor = tl.load(q_factor + head * length + rows, mask=rows < valid, other=0.0)
    shift = tl.load(delta + head * length + rows, mask=rows < valid, other=0.0)
    total = tl.zeros((ROWS, BLOCK_D), tl.float32)
    end = valid
    if CAUSAL:
        end = tl.minimum(valid, (tl.program_id(0) + 1) * ROWS)
    for first in range(0, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        own_k = load_rows(k + start * D, keys, valid, heads * D, D, BLOCK_D, TYPE)
        own_v = load_rows(v + start * E, keys, valid, heads * E, E, BLOCK_E, TYPE)
        scale = tl.load(k_factor + head * length + keys, mask=keys < valid, other=0.0)
        scores = tl.dot(own_q, tl.trans(own_k), input_precision="ieee") * factor[:, None] * scale[None, :]
        _, slope = weights(scores, rows, keys, valid, CAUSAL)
        of_weights = tl.dot(own_dy, tl.trans(own_v), input_precision="ieee")
        of_scores = slope * (of_weights - shift[:, None]) * scale[None, :]
        total += tl.dot(of_scores.to(TYPE), own_k, input_precision="ieee")
    own_share = tl.load(share + head * length + rows, mask=rows < valid, other=0.0)
    total = total * own_share[:, None] + load_rows(found + start * D, rows, valid, heads * D, D, BLOCK_D, tl.float32)
    store_rows(found + start * D, rows, valid, heads * D, total, D, BLOCK_D)


@triton.jit
def of_keys(
    q, k, v, dy, q_factor, k_factor, lengths, share, delta, found_k, found_v, length, heads, lift,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, TYPE: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Write the gradients of k̂ (B,T,H,d) and v (B,T,H,e), float32, of valid keys. Grid: key blocks x heads.

    `lift` is a power of two that keeps weights in the range of float16; the sums are divided by it.
    """
    head = tl.program_id(1).to(tl.int64)
    start = head // heads * length * heads + head % heads
    valid = tl.load(lengths + head // heads)
    keys = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    own_k = load_rows(k + start * D, keys, valid, heads * D, D, BLOCK_D, TYPE)
    own_v = load_rows(v + start * E, keys, valid, heads * E, E, BLOCK_E, TYPE)
    scale = tl.load(k_factor + head * length + keys, mask=keys < valid, other=0.0)
    total_k = tl.zeros((KEYS, BLOCK_D), tl.float32)
    total_v = tl.zeros((KEYS, BLOCK_E), tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.program_id(0) * KEYS // ROWS * ROWS
    for first in range(begin, valid, ROWS):
        rows = first + tl.arange(0, ROWS)
        own_q = load_rows(q + start * D, rows, valid, heads * D, D, BLOCK_D, TYPE)
        own_dy = load_rows(dy + start * E, rows, valid, heads * E, E, BLOCK_E, TYPE)
        factor = tl.load(q_factor + head * length + rows, mask=rows < valid, other=0.0)
        own_share = tl.load(share + head * length + rows, mask=rows < valid, other=0.0) * lift
        shift = tl.load(delta + head * length + rows, mask=rows < valid, other=0.0)
        scores = tl.dot(own_q, tl.trans(own_k), input_precision="ieee") * factor[:, None] * scale[None, :]
        weight, slope = weights(scores, rows, keys, valid, CAUSAL)
        of_weights = tl.dot(own_dy, tl.trans(own_v), input_precision="ieee")
        of_scores = slope * (of_weights - shift[:, None]) * (own_share * factor)[:, None]
        total_v += tl.dot(tl.trans((weight * own_share[:, None]).to(TYPE)), own_dy, input_precision="ieee")
        total_k += tl.dot(tl.trans(of_scores.to(TYPE)), own_q, input_precision="ieee")
    store_rows(found_k + start * D, keys, valid, heads * D, total_k / lift, D, BLOCK_D)
    store_rows(found_v + start * E, keys, valid, heads * E, total_v / lift, E, BLOCK_E)
