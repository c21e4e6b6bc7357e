"""The gradient of ShiftMix as one Triton kernel: each token is read and written once. Imported only where Triton is."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def backward(
    dy, x, alpha, beta, shifts, dx, of_alpha, of_beta, length, width, per_group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write dx (B,T,D), and the sums of a block's tokens for alpha and beta (B, T blocks, D), float32.

    dx[t] = alpha dy[t] + beta dy[t+s],  dalpha = sum dy[t] x[t],  dbeta = sum dy[t] x[t-s]

    `shifts` (groups,) int64. Grid: column blocks x T blocks x B.
    """
    row = tl.program_id(2).to(tl.int64)
    start = row * length * width
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = columns < width
    shift = tl.load(shifts + columns // per_group, mask=known, other=0)
    mask = (rows < length)[:, None] & known[None, :]
    here = rows[:, None] * width + columns[None, :]
    later = rows[:, None] + shift[None, :]
    earlier = rows[:, None] - shift[None, :]
    step = shift[None, :] * width
    own_dy = tl.load(dy + start + here, mask=mask, other=0.0).to(tl.float32)
    later_dy = tl.load(dy + start + here + step, mask=mask & (later >= 0) & (later < length), other=0.0)
    own_x = tl.load(x + start + here, mask=mask, other=0.0).to(tl.float32)
    earlier_x = tl.load(x + start + here - step, mask=mask & (earlier >= 0) & (earlier < length), other=0.0)
    own_alpha = tl.load(alpha + columns, mask=known, other=0.0).to(tl.float32)
    own_beta = tl.load(beta + columns, mask=known, other=0.0).to(tl.float32)
    of_x = own_alpha[None, :] * own_dy + own_beta[None, :] * later_dy.to(tl.float32)
    tl.store(dx + start + here, of_x.to(dx.dtype.element_ty), mask=mask)
    at = (row * tl.num_programs(1) + tl.program_id(1)) * width + columns
    tl.store(of_alpha + at, tl.sum(own_dy * own_x, 0), mask=known)
    tl.store(of_beta + at, tl.sum(own_dy * earlier_x.to(tl.float32), 0), mask=known)
