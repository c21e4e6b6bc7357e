"""Softmax attention's parts: over whole sequences, and over the keys and values of earlier calls.

Each is one operator, which becomes one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import require
from ..ops import (
    attention,
    attention_cached,
    relative_attention,
    relative_attention_cached,
    window_attention_cached,
    window_relative_attention_cached,
)
from ..parts import Place
from ..state import State, StateEntry
from .mixer import HeadsConfig

_SOFTMAX = 5  # operations an element, as `inspect` counts them for ONNX's Softmax


def check_rotation(base: float, place: Place) -> None:
    """Refuse a base of RoPE's wavelengths that has no powers; raises ConfigError."""
    require(base > 0, f"{place.where}.rope_base must be positive, got {base}")


def check_window(window: int | None, place: Place) -> None:
    """Refuse a window in which a token does not even see itself; raises ConfigError."""
    require(window is None or window >= 1, f"{place.where}.window must be at least 1, got {window}")


def seen(length: int, context: int, window: int | None) -> int:
    """Return the keys that T queries meet: as many as they are and those before them, but for a window."""
    return min(length + context, window or length + context)


def attention_operations(config: HeadsConfig, width: int, length: int, context: int, window: int | None) -> int:
    """Return the operations of softmax attention: scores, their softmax, and the sums of values."""
    pairs = config.heads * length * seen(length, context, window)
    return pairs * (4 * config.head_width(width) + _SOFTMAX)


def attend_whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float = 1.0,
    relative: Tensor | None = None,
) -> Tensor:
    """Return softmax(scale q k^T) v over the keys that each query may see; zeros where it sees none.

    Args:
        q: (B,T,H,f).
        k, v: (B,S,G,f); G divides H.
        lengths: (B,) int64, valid keys of each row; None means all.
        causal: query t sees keys up to t.
        window: keys up to itself that a query sees at most; None means all.
        scale: factor on the scores.
        relative: (P,H,f), keys of distances, added to those of tokens: row T - 1 + j is for the key j behind a query.

    Returns:
        (B,T,H,f).
    """
    if lengths is None:
        lengths = torch.full((k.shape[0],), k.shape[1], dtype=torch.int64, device=k.device)
    q, k = q.to(v.dtype), k.to(v.dtype)
    if relative is None:
        return attention(q, k, v, lengths, causal, window or 0, scale)
    return relative_attention(q, k, v, lengths, relative.to(v.dtype), causal, window or 0, scale)


def attend_remembered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State,
    position: Tensor,
    lengths: Tensor,
    *,
    window: int | None = None,
    scale: float = 1.0,
    relative: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Return what `attend_whole` gives the new tokens after those of a state, and the state with them.

    Args:
        q: (B,T,H,f).
        k, v: (B,T,G,f).
        state: "key" and "value", as `memory_entries` describes them.
        position: (B,) int64, tokens of each row that came before.
        lengths: (B,) int64, valid new tokens of each row.
        window: keys that a query sees at most, itself included; None means all.
        scale: factor on the scores.
        relative: keys of distances, added to those of tokens: with a window (window,H,f), row window - 1 - j being for
            a key j before a query; else (B,T,H,f), those of the distances position, position + 1, ...

    Raises:
        ValueError: a row outgrows its cache.
    """
    dtype = state["key"].dtype
    new, memory = (q.to(dtype), k.to(dtype), v.to(dtype)), (state["key"], state["value"])
    own = () if relative is None else (relative.to(dtype),)
    after: Sequence[Tensor]
    if window is not None:
        attend: Any = window_relative_attention_cached if own else window_attention_cached
        y, *after = attend(*new, *memory, position, lengths, *own, window, scale)
    elif own:
        y, *after = relative_attention_cached(*new, *memory, position, lengths, *own, state["relative"], scale)
    else:
        y, *after = attention_cached(*new, *memory, position, lengths, scale)
    return y.to(v.dtype), dict(zip(("key", "value", "relative")[: len(after)], after, strict=True))


def memory_entries(
    heads: int, head_dim: int, window: int | None, rollback: int, relative: bool = False
) -> dict[str, StateEntry]:
    """Describe {"key", "value"}: (B,C,H,f) for C tokens, or with a window (B, window + rollback, H, f), a ring.

    With `relative` there is "relative" too: the keys of C distances.
    """
    if window is None:
        entry = StateEntry((None, heads, head_dim), "position")
    else:
        entry = StateEntry((window + rollback, heads, head_dim), "slots", spare=rollback)
    return dict.fromkeys(("key", "value", "relative") if relative else ("key", "value"), entry)
