"""Softmax attention's parts: the causal mask, the attention itself and the key/value cache.

Everything is made of comparisons, Where and Gather on int64 ranges, so that it exports with dynamic shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..positions import absolute_positions
from ..precision import accumulator
from .mixer import State


def causal_mask(query_position: Tensor, keys: int) -> Tensor:
    """Return which keys a query may see, (1 or B, 1, T, keys) bool, for query positions (1 or B, T)."""
    key_position = torch.arange(keys, device=query_position.device)
    return (key_position <= query_position.unsqueeze(-1)).unsqueeze(1)


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, extra: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T + extra) v over the visible keys; the caller has scaled q and k.

    The softmax is computed in float32 (float64 in double models). Hidden scores become the lowest finite number, not
    minus infinity, so that a row without any visible key gives a finite mean and never NaN.

    Args:
        q: (B,T,H,f).
        k, v: (B,S,H,f).
        visible: (1 or B, 1, T, S) bool.
        extra: (B,H,T,S) added to the scores, or None.

    Returns:
        (B,T,H,f).
    """
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)
    if extra is not None:
        scores = scores + extra
    scores = scores.to(accumulator(q.dtype))
    scores = torch.where(visible, scores, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    return (weights @ v.transpose(1, 2)).transpose(1, 2)


def empty_cache(batch: int, capacity: int, heads: int, head_dim: int, like: Tensor) -> State:
    """Return zeroed keys and values (B,C,H,f) of the dtype and device of `like`."""
    shape = (batch, capacity, heads, head_dim)
    return {"key": like.new_zeros(shape), "value": like.new_zeros(shape)}


def write_cache(state: State, k: Tensor, v: Tensor, position: Tensor, lengths: Tensor) -> State:
    """Write the valid new keys and values (B,T,H,f) behind the `position` (B,) tokens that the cache already holds.

    Raises:
        ValueError: they do not fit (checked in eager mode only: an exported graph cannot raise).
    """
    capacity = state["key"].shape[1]
    if not torch.compiler.is_compiling():
        longest = int((position + lengths).max())
        if longest > capacity:
            raise ValueError(f"the key/value cache holds {capacity} tokens, but a row reaches {longest}")
    source = torch.arange(capacity, device=k.device) - position.unsqueeze(1)
    is_new = ((source >= 0) & (source < lengths.unsqueeze(1))).unsqueeze(-1).unsqueeze(-1)
    source = source.clamp(min=0).minimum(lengths.new_full((), k.shape[1] - 1)).unsqueeze(-1).unsqueeze(-1)

    def merge(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(is_new, new.gather(1, source.expand(-1, -1, new.shape[2], new.shape[3])), old)

    return {"key": merge(state["key"], k), "value": merge(state["value"], v)}


def cached_positions(x: Tensor, state: State, position: Tensor) -> tuple[Tensor, Tensor]:
    """Return the new tokens' absolute positions (B,T) and which slots of the cache they may see (B,1,T,C)."""
    positions = absolute_positions(x, position)
    return positions, causal_mask(positions, state["key"].shape[1])
