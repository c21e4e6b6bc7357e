"""Products with the experts that a token chooses, whose matrices have 8 or 4 bits.

They are made float32 before they are multiplied: this is what the kernels are held to, no fast way of its own.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..expert_matmul import torch_op as plain
from ..precision import accumulator
from ..registration import register, require
from ..routing import observe


def quantized_expert_matmul(x: Tensor, logits: Tensor, weight: Tensor, scales: Tensor, k: int, per_byte: int) -> Tensor:
    """Return y[b,t,h] = sum over the top-k e of sigmoid(l[b,t,h,e]) x[b,t] W[h,e].

    Args:
        x: (B,T,D).
        logits: (B,T,H,E), float32 (float64 for float64 x).
        weight: (H,E,G,R,f) uint8, D = G * R * per_byte; W is (weight - middle) * scales.
        scales: (H,E,G,f) of the logits' dtype.
        k: experts taken, 1..E.
        per_byte: numbers in a byte: 1 of 8 bits or 2 of 4 bits, the earlier row in the lower half.

    Returns:
        (B,T,H,f) of x's dtype.

    Raises:
        ValueError: shapes or dtypes that contradict each other, or numbers outside their ranges.
    """
    _check(x, logits, weight, scales, k, per_byte, summed=False)
    return _matmul(x, observe(logits, k), weight, scales, k, per_byte)


def quantized_expert_matmul_sum(
    x: Tensor, logits: Tensor, weight: Tensor, scales: Tensor, k: int, per_byte: int
) -> Tensor:
    """Return y[b,t] = sum over h and the top-k e of sigmoid(l[b,t,h,e]) x[b,t,h] W[h,e].

    Args:
        x: (B,T,H,f).
        logits: (B,T,H,E), float32 (float64 for float64 x).
        weight: (H,E,G,R,D) uint8, f = G * R * per_byte; W is (weight - middle) * scales.
        scales: (H,E,G,D) of the logits' dtype.
        k: experts taken, 1..E.
        per_byte: as above.

    Returns:
        (B,T,D) of x's dtype.

    Raises:
        ValueError: shapes or dtypes that contradict each other, or numbers outside their ranges.
    """
    _check(x, logits, weight, scales, k, per_byte, summed=True)
    return _matmul_sum(x, observe(logits, k), weight, scales, k, per_byte)


def unpacked(weight: Tensor, scales: Tensor, per_byte: int) -> Tensor:
    """Return the matrices (H,E,in,out) in the scales' dtype."""
    halves = [weight] if per_byte == 1 else [weight & 15, weight >> 4]
    numbers = torch.stack(halves, 4).flatten(3, 4).to(scales.dtype) - (128 if per_byte == 1 else 8)
    return (numbers * scales.unsqueeze(3)).flatten(2, 3)


def _check(x: Tensor, logits: Tensor, weight: Tensor, scales: Tensor, k: int, per_byte: int, summed: bool) -> None:
    rank = 4 if summed else 3
    require(x.dim() == rank, f"x must have {rank} dimensions, got shape {tuple(x.shape)}")
    require(logits.dim() == 4, f"logits must be (B,T,H,E), got shape {tuple(logits.shape)}")
    require(weight.dim() == 5, f"weight must have 5 dimensions (H,E,G,R,out), got shape {tuple(weight.shape)}")
    require(weight.dtype == torch.uint8, f"weight must be torch.uint8, got {weight.dtype}")
    wide = accumulator(x.dtype)
    require(logits.dtype == wide, f"logits must be {wide} for x of {x.dtype}, got {logits.dtype}")
    require(scales.dtype == wide, f"scales must be {wide} for x of {x.dtype}, got {scales.dtype}")
    shape = (*weight.shape[:3], weight.shape[4])
    require(tuple(scales.shape) == shape, f"scales {tuple(scales.shape)} do not fit weight {tuple(weight.shape)}")
    require(1 <= per_byte <= 2, f"per_byte = {per_byte} must be 1 or 2")
    heads, experts = logits.shape[2:]
    require(
        tuple(weight.shape[:2]) == (heads, experts),
        f"weight {tuple(weight.shape)} does not have the logits' {heads} heads and {experts} experts",
    )
    rows = weight.shape[2] * weight.shape[3] * per_byte
    require(rows == x.shape[-1], f"weight {tuple(weight.shape)} does not fit x of width {x.shape[-1]}")
    require(
        tuple(logits.shape[:2]) == tuple(x.shape[:2]),
        f"logits {tuple(logits.shape)} do not have the rows and tokens of x {tuple(x.shape)}",
    )
    require(not summed or x.shape[2] == heads, f"x {tuple(x.shape)} does not have the logits' {heads} heads")
    require(1 <= k <= experts, f"k = {k} must lie between 1 and the number of experts {experts}")


def _reference(
    x: Tensor, logits: Tensor, weight: Tensor, scales: Tensor, k: int, per_byte: int, *, summed: bool
) -> Tensor:
    wide = unpacked(weight, scales, per_byte)
    multiply = plain._sum_reference if summed else plain._reference
    return multiply(x.to(wide.dtype), logits, wide, k).to(x.dtype)


def _gradient(
    output_gradient: Tensor,
    needed: list[int],
    x: Tensor,
    logits: Tensor,
    weight: Tensor,
    scales: Tensor,
    k: int,
    per_byte: int,
    *,
    summed: bool,
) -> dict[int, Tensor]:
    """Return the gradients of x, logits and scales; whole numbers have none."""
    wide = unpacked(weight, scales, per_byte)
    differentiate = plain._sum_gradient if summed else plain._gradient
    found = differentiate(output_gradient.to(wide.dtype), needed, x.to(wide.dtype), logits, wide, k)
    numbers = unpacked(weight, torch.ones_like(scales), per_byte)
    of_scales = (found[2] * numbers).unflatten(2, (weight.shape[2], -1)).sum(3)
    return {0: found[0].to(x.dtype), 1: found[1], 3: of_scales}


def _fake(x: Tensor, logits: Tensor, weight: Tensor, scales: Tensor, k: int, per_byte: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], weight.shape[0], weight.shape[4]))


def _sum_fake(x: Tensor, logits: Tensor, weight: Tensor, scales: Tensor, k: int, per_byte: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], weight.shape[4]))


_SCHEMA = "(Tensor x, Tensor logits, Tensor weight, Tensor scales, int k, int per_byte) -> Tensor"
_matmul = register(
    "quantized_expert_matmul",
    _SCHEMA,
    partial(_reference, summed=False),
    _fake,
    partial(_gradient, summed=False),
)
_matmul_sum = register(
    "quantized_expert_matmul_sum",
    _SCHEMA,
    partial(_reference, summed=True),
    _sum_fake,
    partial(_gradient, summed=True),
)
