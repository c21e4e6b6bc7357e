"""The gradients of products with chosen experts by Triton kernels. Nothing waits for the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fused_gradient import product_type
from .selection import sort_choices

_LEAST_BLOCK = 16  # of a product


def gradient(
    grad: Tensor, x: Tensor, logits: Tensor, weight: Tensor, k: int, shared: int, added: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, logits and weight.

    Args:
        grad: (rows,out), of the results; `added` choices in a row are summed in one.
        x: (rows,in); `shared` choices in a row read one.
        logits: (B,T,H,E), float32.
        weight: (H,E,in,out) of x's type.
        k: experts that each token and head takes.
    """
    from . import triton_kernels as kernels

    choices = sort_choices(logits, k)
    inputs, outputs = weight.shape[2:]
    experts, count = weight.shape[0] * weight.shape[1], len(choices.order)
    own_x, own_dy, own_weight = x.contiguous(), grad.to(x.dtype).contiguous(), weight.contiguous()
    gates = choices.gates.contiguous()
    rows = 32 if x.dtype == torch.float32 else 64
    options: dict[str, Any] = {
        "IN": inputs,
        "OUT": outputs,
        "SHARED": shared,
        "ADDED": added,
        "ROWS": rows,
        "COLUMNS": min(_block(inputs), rows),
        "DEPTH": min(_block(outputs), rows),
        "TYPE": product_type(x.dtype),
    }
    tiles = ((choices.starts.diff() + rows - 1) // rows).cumsum(0).int()
    of_choices = torch.empty((count, inputs), device=x.device)
    of_gates = torch.empty(count, device=x.device)
    # As many blocks as there can be: one more for each expert whose last is not full.
    kernels.of_choices[(-(-count // rows) + experts,)](
        own_x,
        own_dy,
        own_weight,
        gates,
        choices.order,
        choices.starts,
        tiles,
        of_choices,
        of_gates,
        EXPERTS=experts,
        BLOCK_EXPERTS=_block(experts),
        **options,
    )
    of_weight = torch.empty_like(own_weight)
    grid = (experts, -(-inputs // options["COLUMNS"]), -(-outputs // options["DEPTH"]))
    kernels.of_weights[grid](own_x, own_dy, gates, choices.order, choices.starts, of_weight, **options)
    through_sigmoid = (of_gates * gates * (1 - gates)).view(choices.chosen.shape)
    of_logits = torch.zeros_like(logits).scatter_(-1, choices.chosen, through_sigmoid)
    return of_choices.view(-1, shared, inputs).sum(1), of_logits, of_weight


def takes(needed: list[int], inputs: Sequence[Any]) -> bool:
    """Return whether `gradient` knows these sizes: something to compute, and numbers of choices within 32 bits."""
    x, logits, weight, k = inputs
    choices = logits.shape[0] * logits.shape[1] * logits.shape[2] * k
    return x.numel() > 0 and weight.numel() > 0 and 0 < choices < 2**31 and x.dtype == weight.dtype


def _block(size: int) -> int:
    """Return the power of two that holds a size."""
    return max(1 << (size - 1).bit_length(), _LEAST_BLOCK)
