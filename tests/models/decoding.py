"""Decode a batch in chunks, with rows of different lengths, the way a server would."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, dict[str, Tensor], Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def random_lengths(batch: int, length: int, generator: torch.Generator) -> Tensor:
    """Row lengths 1..length, one of them the full length."""
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    lengths[0] = length
    return lengths


def random_chunks(lengths: Tensor, generator: torch.Generator) -> list[Tensor]:
    """How many tokens each row takes in each call, (B,) per call: zeros and single tokens among them."""
    chunks, left = [], lengths.clone()
    while bool((left > 0).any()):
        most = int(torch.randint(1, 5, (), generator=generator))
        take = torch.minimum(torch.randint(0, most + 1, left.shape, generator=generator), left)
        if int(take.max()) > 0:
            chunks.append(take)
            left = left - take
    return chunks


def decode(step: Step, state: dict[str, Tensor], inputs: Tensor, chunks: list[Tensor]) -> list[Tensor]:
    """Feed each row of inputs (B,T,...) chunk by chunk, right-padded with rubbish; return each row's outputs."""
    batch = inputs.shape[0]
    position = torch.zeros(batch, dtype=torch.int64)
    rows: list[list[Tensor]] = [[] for _ in range(batch)]
    for take in chunks:
        padded = inputs.flip(1)[:, : int(take.max())].clone()
        for b in range(batch):
            n, start = int(take[b]), int(position[b])
            padded[b, :n] = inputs[b, start : start + n]
        outputs, state = step(padded, state, position, take)
        for b in range(batch):
            rows[b].append(outputs[b, : int(take[b])])
        position = position + take
    return [torch.cat(row) for row in rows]


def largest_difference(rows: list[Tensor], full: Tensor) -> float:
    """Largest difference between decoded rows and the first tokens of a full pass (B,T,...)."""
    return max(float((row - full[b, : len(row)]).detach().abs().max()) for b, row in enumerate(rows))
