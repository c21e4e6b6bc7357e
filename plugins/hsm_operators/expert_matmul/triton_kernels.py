"""The gradient of products with chosen experts as Triton kernels. Imported only where there is Triton.

A choice is a (token, head, rank) triple, numbered in that order; `order` lists the S choices by expert, and `starts`
(experts + 1) where in it each expert's begin. Choice c reads row c // SHARED of x (rows,IN), and row c // ADDED of dy
(rows,OUT) arrives at it. Each sum has one order: the same input gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def of_choices(
    x, dy, weight, gates, order, starts, tiles, of_x, of_gates,
    IN: tl.constexpr, OUT: tl.constexpr, SHARED: tl.constexpr, ADDED: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Write gate times dy Wᵀ (S,IN) and x·(dy Wᵀ) (S,), both by the choices' numbers, float32.

    `tiles` (experts,) counts blocks of ROWS choices up to and with each expert. Grid: at least that many blocks.
    """
    tile = tl.program_id(0)
    experts = tl.arange(0, BLOCK_EXPERTS)
    until = tl.load(tiles + experts, mask=experts < EXPERTS, other=2147483647)
    expert = tl.sum((until <= tile).to(tl.int32), 0)
    if expert < EXPERTS:
        before = tl.max(tl.where(experts < expert, until, 0), 0)
        end = tl.load(starts + expert + 1)
        places = tl.load(starts + expert) + (tile - before) * ROWS + tl.arange(0, ROWS)
        known = places < end
        choices = tl.load(order + places, mask=known, other=0)
        gate = tl.load(gates + choices, mask=known, other=0.0)
        matrix = weight + expert.to(tl.int64) * IN * OUT
        along = tl.zeros((ROWS,), tl.float32)
        for first in range(0, IN, COLUMNS):
            columns = first + tl.arange(0, COLUMNS)
            total = tl.zeros((ROWS, COLUMNS), tl.float32)
            for begin in range(0, OUT, DEPTH):
                depth = begin + tl.arange(0, DEPTH)
                own_dy = tl.load(
                    dy + (choices // ADDED)[:, None] * OUT + depth[None, :],
                    mask=known[:, None] & (depth < OUT)[None, :],
                    other=0.0,
                ).to(TYPE)
                own_weight = tl.load(
                    matrix + columns[:, None] * OUT + depth[None, :],
                    mask=(columns < IN)[:, None] & (depth < OUT)[None, :],
                    other=0.0,
                ).to(TYPE)
                total += tl.dot(own_dy, tl.trans(own_weight), input_precision="ieee")
            mask = known[:, None] & (columns < IN)[None, :]
            own_x = tl.load(x + (choices // SHARED)[:, None] * IN + columns[None, :], mask=mask, other=0.0)
            along += tl.sum(total * own_x.to(tl.float32), 1)
            tl.store(of_x + choices[:, None] * IN + columns[None, :], total * gate[:, None], mask=mask)
        tl.store(of_gates + choices, along, mask=known)


@triton.jit
def of_weights(
    x, dy, gates, order, starts, of_weight,
    IN: tl.constexpr, OUT: tl.constexpr, SHARED: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Write sum of gate xᵀ dy over each expert's choices (experts,IN,OUT). Grid: experts x IN blocks x OUT blocks."""
    expert = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.program_id(2) * DEPTH + tl.arange(0, DEPTH)
    end = tl.load(starts + expert + 1)
    total = tl.zeros((COLUMNS, DEPTH), tl.float32)
    for begin in range(tl.load(starts + expert), end, ROWS):
        places = begin + tl.arange(0, ROWS)
        known = places < end
        choices = tl.load(order + places, mask=known, other=0)
        gate = tl.load(gates + choices, mask=known, other=0.0)
        own_x = tl.load(
            x + (choices // SHARED)[:, None] * IN + columns[None, :],
            mask=known[:, None] & (columns < IN)[None, :],
            other=0.0,
        ).to(TYPE)
        own_dy = tl.load(
            dy + (choices // ADDED)[:, None] * OUT + depth[None, :],
            mask=known[:, None] & (depth < OUT)[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.dot(tl.trans(own_x), (own_dy * gate[:, None]).to(TYPE), input_precision="ieee")
    mask = (columns < IN)[:, None] & (depth < OUT)[None, :]
    at = expert.to(tl.int64) * IN * OUT + columns[:, None] * OUT + depth[None, :]
    tl.store(of_weight + at, total.to(of_weight.dtype.element_ty), mask=mask)
