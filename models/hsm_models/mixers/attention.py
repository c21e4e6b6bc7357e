"""Softmax attention's parts: over whole sequences, and over the keys and values of earlier calls.

Without an additive term both are one operator, which becomes one node. With one they are made of comparisons, Where,
Gather and ScatterND on int64 ranges, so that they export with dynamic shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsm_operators.precision import accumulator

from ..decoding import written
from ..errors import require
from ..ops import attention, attention_cached, window_attention_cached
from ..parts import Place
from ..positions import absolute_positions
from ..rows import take_rows
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


def causal_mask(query_position: Tensor, key_position: Tensor, window: int | None = None) -> Tensor:
    """Return which keys a query may see: those up to itself, with a window only the last of them.

    Args:
        query_position: (1 or B, T) int64.
        key_position: (1 or B, S) int64; with a window, negative where there is no key.
        window: keys that a query sees at most, itself included; None means all.

    Returns:
        (1 or B, 1, T, S) bool.
    """
    query, key = query_position.unsqueeze(-1), key_position.unsqueeze(-2)
    visible = key <= query
    if window is not None:
        visible = visible & (key > query - window) & (key >= 0)
    return visible.unsqueeze(1)


def length_mask(key_position: Tensor, lengths: Tensor) -> Tensor:
    """Return which keys every query may see: those of valid tokens.

    Args:
        key_position: (1,S) int64.
        lengths: (B,) int64, valid tokens of each row.

    Returns:
        (B, 1, 1, S) bool.
    """
    return (key_position < lengths.unsqueeze(1)).unsqueeze(1).unsqueeze(1)


def attend_whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Return softmax(scale q k^T) v over the keys that each query may see; zeros where it sees none.

    Args:
        q: (B,T,H,f).
        k, v: (B,S,G,f); G divides H.
        lengths: (B,) int64, valid keys of each row; None means all.
        causal: query t sees keys up to t.
        window: keys up to itself that a query sees at most; None means all.
        scale: factor on the scores.

    Returns:
        (B,T,H,f).
    """
    if lengths is None:
        lengths = torch.full((k.shape[0],), k.shape[1], dtype=torch.int64, device=k.device)
    return attention(q.to(v.dtype), k.to(v.dtype), v, lengths, causal, window or 0, scale)


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

    Raises:
        ValueError: a row outgrows its cache.
    """
    memory = state["key"], state["value"]
    dtype = memory[0].dtype
    new = q.to(dtype), k.to(dtype), v.to(dtype)
    if window is None:
        y, key, value = attention_cached(*new, *memory, position, lengths, scale)
    else:
        y, key, value = window_attention_cached(*new, *memory, position, lengths, window, scale)
    return y.to(v.dtype), {"key": key, "value": value}


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, extra: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T + extra) v over the visible keys; the caller has scaled q and k.

    The softmax is computed in float32 (float64 in double models). Hidden scores become the lowest finite number, not
    minus infinity, so that a row without any visible key gives a finite mean and never NaN.

    Args:
        q: (B,T,H,f).
        k, v: (B,S,H,f).
        visible: (1 or B, 1, 1 or T, S) bool; None means all.
        extra: (B,H,T,S) added to the scores, or None.

    Returns:
        (B,T,H,f).
    """
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)
    if extra is not None:
        scores = scores + extra
    scores = scores.to(accumulator(q.dtype))
    if visible is not None:
        scores = torch.where(visible, scores, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    return (weights @ v.transpose(1, 2)).transpose(1, 2)


def memory_entries(heads: int, head_dim: int, window: int | None, rollback: int) -> dict[str, StateEntry]:
    """Describe {"key", "value"}: (B,C,H,f) for C tokens, or with a window (B, window + rollback, H, f), a ring."""
    if window is None:
        entry = StateEntry((None, heads, head_dim), "position")
    else:
        entry = StateEntry((window + rollback, heads, head_dim), "slots", spare=rollback)
    return {"key": entry, "value": entry}


@dataclass(frozen=True)
class Memory:
    """Keys and values that a call's queries may look at.

    Attributes:
        state: the state after the call.
        key, value: (B,S,H,f).
        position: (1 or B, S) int64, the absolute position of each key; negative where a ring has none.
    """

    state: State
    key: Tensor
    value: Tensor
    position: Tensor


def remember(state: State, k: Tensor, v: Tensor, position: Tensor, lengths: Tensor, window: int | None) -> Memory:
    """Add the valid new keys and values (B,T,H,f) to those of the `position` (B,) tokens that came before.

    Raises:
        ValueError: they do not fit into a cache (checked in eager mode only: in an exported graph the runtime refuses
            to write beyond the cache).
    """
    if window is None:
        state = {name: written(state[name], new, position, lengths) for name, new in (("key", k), ("value", v))}
        slots = torch.arange(state["key"].shape[1], device=k.device).unsqueeze(0)
        return Memory(state, state["key"], state["value"], slots)
    kept = {name: torch.cat((state[name], new), dim=1) for name, new in (("key", k), ("value", v))}
    before = _ring_positions(position, state["key"].shape[1])
    positions = torch.cat((before, absolute_positions(k, position)), dim=1)
    return Memory(_turn_ring(kept, before, position, lengths), kept["key"], kept["value"], positions)


def _ring_positions(end: Tensor, slots: int) -> Tensor:
    """Return the newest position below `end` (B,) that belongs to each slot of a ring, (B,R); negative for none."""
    last = (end - 1).unsqueeze(1)
    return last - (last - torch.arange(slots, device=end.device)) % slots


def _turn_ring(kept: State, before: Tensor, position: Tensor, lengths: Tensor) -> State:
    """Return the ring after the call from the old ring and the new tokens behind it, (B,R+T,H,f)."""
    slots = before.shape[1]
    newest = _ring_positions(position + lengths, slots)
    first = position.unsqueeze(1)
    own = torch.arange(slots, device=before.device)
    source = torch.where(newest >= first, newest - first + slots, own)
    return {name: take_rows(rows, source) for name, rows in kept.items()}
