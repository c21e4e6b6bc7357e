"""The gradient of TaylorShift in its efficient form as Triton kernels, and of what a carried state adds to the causal.

Feature f of a row x̂ is a product of two of its numbers, or of one and 1, or 1: the tables `first` and `second` (F,) say
which, and D stands for 1. `weight` (F,) is W of `taylor_shift`. Features are made tile by tile where they are
multiplied. Each sum has one order: the same input gives the same bits.

Tensors are (B,T,H,width), contiguous; per row (B,H,T), sums (B,H,F,E) and norms (B,H,F), float32. Imported only where
there is Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_direct import load_rows, store_rows


@triton.jit
def numbers(base, rows, valid, stride, factor, index, known, D: tl.constexpr):
    """Return x̂ (rows,features) at the features' indices; 1 where an index is D, 0 in padding."""
    inside = (rows < valid)[:, None] & known[None, :]
    found = tl.load(base + rows[:, None] * stride + index[None, :], mask=inside & (index < D)[None, :], other=0.0)
    found = tl.where((index < D)[None, :], found.to(tl.float32) * factor[:, None], 1.0)
    return tl.where(inside, found, 0.0)


@triton.jit
def accumulate(
    x, x_factor, y, scale, constant, lengths, first, second, weight, sums, norms, length, heads, lift,
    D: tl.constexpr, E: tl.constexpr, F: tl.constexpr, BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Write sums_f = sum_n weight_f phi_f(x̂_n) scale_n y_n, and norms_f with constant_n for scale_n y_n.

    Grid: feature blocks x heads. `lift` is a power of two that keeps scaled features in the range of TYPE.
    """
    head = tl.program_id(1).to(tl.int64)
    start = head // heads * length * heads + head % heads
    valid = tl.load(lengths + head // heads)
    own = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    known = own < F
    left = tl.load(first + own, mask=known, other=D)
    right = tl.load(second + own, mask=known, other=D)
    factors = tl.load(weight + own, mask=known, other=0.0)
    total = tl.zeros((FEATURES, BLOCK_E), tl.float32)
    norm = tl.zeros((FEATURES,), tl.float32)
    for begin in range(0, valid, ROWS):
        rows = begin + tl.arange(0, ROWS)
        at = head * length + rows
        factor = tl.load(x_factor + at, mask=rows < valid, other=0.0)
        phi = numbers(x + start * D, rows, valid, heads * D, factor, left, known, D)
        phi *= numbers(x + start * D, rows, valid, heads * D, factor, right, known, D)
        norm += tl.sum(phi * tl.load(constant + at, mask=rows < valid, other=0.0)[:, None], 0)
        phi *= (tl.load(scale + at, mask=rows < valid, other=0.0) * lift)[:, None]
        own_y = load_rows(y + start * E, rows, valid, heads * E, E, BLOCK_E, TYPE)
        total += tl.dot(tl.trans(phi.to(TYPE)), own_y, input_precision="ieee")
    tl.store(norms + head * F + own, norm * factors, mask=known)
    store_rows(sums + head * F * E, own, F, E, total * (factors / lift)[:, None], E, BLOCK_E)


@triton.jit
def statistics(
    x, x_factor, y, lengths, started, first, second, weight, sums, norms, denominator, delta, length, heads,
    D: tl.constexpr, E: tl.constexpr, F: tl.constexpr, BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Write den_n = sum_f weight_f phi_f(x̂_n) norms_f and, with sums_f·y_n for norms_f, den_n delta_n.

    `started` (B,H) int32 says for which heads; the others get 0. Grid: row blocks x heads.
    """
    head = tl.program_id(1).to(tl.int64)
    start = head // heads * length * heads + head % heads
    valid = tl.load(lengths + head // heads)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = head * length + rows
    factor = tl.load(x_factor + at, mask=rows < valid, other=0.0)
    own_y = load_rows(y + start * E, rows, valid, heads * E, E, BLOCK_E, TYPE)
    total = tl.zeros((ROWS,), tl.float32)
    along = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, F * tl.load(started + head), FEATURES):
        own = begin + tl.arange(0, FEATURES)
        known = own < F
        left = tl.load(first + own, mask=known, other=D)
        right = tl.load(second + own, mask=known, other=D)
        phi = numbers(x + start * D, rows, valid, heads * D, factor, left, known, D)
        phi *= numbers(x + start * D, rows, valid, heads * D, factor, right, known, D)
        phi *= tl.load(weight + own, mask=known, other=0.0)[None, :]
        total += tl.sum(phi * tl.load(norms + head * F + own, mask=known, other=0.0)[None, :], 1)
        own_sums = load_rows(sums + head * F * E, own, F, E, E, BLOCK_E, TYPE)
        along += tl.sum(phi * tl.dot(own_y, tl.trans(own_sums), input_precision="ieee"), 1)
    tl.store(denominator + at, total, mask=rows < length)
    tl.store(delta + at, along, mask=rows < length)


@triton.jit
def through(
    x, x_factor, y, scale, constant, lengths, started, first, second, weight, sums, norms, found, found_values,
    length, heads,
    D: tl.constexpr, E: tl.constexpr, F: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, TYPE: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """Write scale_n times the gradient of x̂_n from that of its features, weight_f (sums_f·y_n + constant_n norms_f).

    With VALUES also sum_f weight_f phi_f(x̂_n) sums_f. `started` as of `statistics`. Grid: row blocks x heads.
    """
    head = tl.program_id(1).to(tl.int64)
    start = head // heads * length * heads + head % heads
    valid = tl.load(lengths + head // heads)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = head * length + rows
    columns = tl.arange(0, BLOCK_D)
    factor = tl.load(x_factor + at, mask=rows < valid, other=0.0)
    own_constant = tl.load(constant + at, mask=rows < valid, other=0.0)
    own_y = load_rows(y + start * E, rows, valid, heads * E, E, BLOCK_E, TYPE)
    total = tl.zeros((ROWS, BLOCK_D), tl.float32)
    values = tl.zeros((ROWS, BLOCK_E), tl.float32)
    for begin in range(0, F * tl.load(started + head), FEATURES):
        own = begin + tl.arange(0, FEATURES)
        known = own < F
        left = tl.load(first + own, mask=known, other=D)
        right = tl.load(second + own, mask=known, other=D)
        factors = tl.load(weight + own, mask=known, other=0.0)
        left_x = numbers(x + start * D, rows, valid, heads * D, factor, left, known, D)
        right_x = numbers(x + start * D, rows, valid, heads * D, factor, right, known, D)
        own_sums = load_rows(sums + head * F * E, own, F, E, E, BLOCK_E, TYPE)
        own_norms = tl.load(norms + head * F + own, mask=known, other=0.0)
        of_phi = tl.dot(own_y, tl.trans(own_sums), input_precision="ieee")
        of_phi = (of_phi + own_constant[:, None] * own_norms[None, :]) * factors[None, :]
        # Adding up by channel is a product with a matrix of ones and zeros.
        to_left = (left[:, None] == columns[None, :]).to(TYPE)
        to_right = (right[:, None] == columns[None, :]).to(TYPE)
        total += tl.dot((of_phi * right_x).to(TYPE), to_left, input_precision="ieee")
        total += tl.dot((of_phi * left_x).to(TYPE), to_right, input_precision="ieee")
        if VALUES:
            phi = left_x * right_x * factors[None, :]
            values += tl.dot(phi.to(TYPE), own_sums, input_precision="ieee")
    own_scale = tl.load(scale + at, mask=rows < valid, other=0.0)
    store_rows(found + start * D, rows, length, heads * D, total * own_scale[:, None], D, BLOCK_D)
    if VALUES:
        store_rows(found_values + start * E, rows, length, heads * E, values, E, BLOCK_E)
