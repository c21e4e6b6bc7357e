"""ONNX Runtime's own attention and its like, for onnx's Python evaluator; see `contrib`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class UndefinedError(Exception):
    """An operator that is known, in a form that is not."""


def rotary(
    x: Array, positions: Array, cos: Array, sin: Array, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0, scale: float = 1.0, is_packed_batching: int = 0, **_: Any,
) -> Array:  # fmt: skip
    """Turn pairs of numbers by the angles of their positions."""
    if scale != 1.0 or is_packed_batching:
        raise UndefinedError("scale")
    heads = x if x.ndim == 4 else _split(x, num_heads or x.shape[-1] // (2 * cos.shape[-1]))
    length = heads.shape[2]
    if positions.size == 1 and positions.ndim == 1:
        positions = positions[0] + np.arange(length)[None]
    turned = _turned(heads, positions, cos, sin, rotary_embedding_dim, interleaved)
    return turned if x.ndim == 4 else _merged(turned)


def _turned(x: Array, positions: Array, cos: Array, sin: Array, size: int, interleaved: int) -> Array:
    """Turn heads (B,N,S,D) at positions (B,S)."""
    size = size or 2 * cos.shape[-1]
    c, s = cos[positions][:, None, :, : size // 2], sin[positions][:, None, :, : size // 2]
    part, rest = x[..., :size], x[..., size:]
    first, second = (part[..., 0::2], part[..., 1::2]) if interleaved else np.split(part, 2, -1)
    pair = (first * c - second * s, second * c + first * s)
    turned = np.stack(pair, -1).reshape(part.shape) if interleaved else np.concatenate(pair, -1)
    return np.concatenate([turned, rest], -1)


def group_query(
    query: Array, key: Array | None, value: Array | None, past_key: Array | None, past_value: Array | None,
    seqlens: Array, total: Array, cos: Array | None = None, sin: Array | None = None,
    positions: Array | None = None, attention_bias: Array | None = None, sink: Array | None = None, *further: Any,
    num_heads: int, kv_num_heads: int, do_rotary: int = 0, rotary_interleaved: int = 0, scale: float = 0.0,
    softcap: float = 0.0, local_window_size: int = -1, causal: int = 1, count: int = 3, smooth_softmax: int = 0,
    sliding_window_cache: int = 0, qk_output: int = 0, **_: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Attention whose query heads share key heads, over a cache that it extends: (B,S,N·D), (B,H,P,D) twice."""
    odd = sliding_window_cache or qk_output or smooth_softmax > 0 or count > 3
    if odd or any(item is not None for item in further):
        raise UndefinedError("a cache of steps or of a window")
    q, k, v = _heads(query, key, value, num_heads, kv_num_heads)
    length, longest = q.shape[2], int(np.asarray(total).reshape(-1)[0])
    before = _read_before(seqlens, length, longest)
    places = before[:, None] + np.arange(length)
    if do_rotary:
        if cos is None or sin is None:
            raise UndefinedError("rotary without tables")
        at = places if positions is None else np.asarray(positions)
        q, k = (_turned(item, at, cos, sin, 0, rotary_interleaved) for item in (q, k))
    keys, values = _extended(k, past_key, before, longest), _extended(v, past_value, before, longest)
    slots = np.arange(keys.shape[2])[None, None]
    seen = (slots <= places[..., None] if causal else np.ones_like(slots <= places[..., None])) & (slots < longest)
    if local_window_size > 0:
        seen = seen & (slots > places[..., None] - local_window_size)
    if attention_bias is not None:
        attention_bias = np.pad(attention_bias, [(0, 0)] * 3 + [(0, keys.shape[2] - attention_bias.shape[-1])])
    share, scale = num_heads // kv_num_heads, scale or q.shape[-1] ** -0.5
    shared = keys.repeat(share, 1), values.repeat(share, 1)
    y = _attention(q, *shared, seen[:, None], attention_bias, scale, softcap, sink)
    return (_merged(y), keys, values)[:count]


def _heads(query: Array, key: Array | None, value: Array | None, heads: int, shared: int) -> tuple[Array, Array, Array]:
    """Return query, key and value as (B,N,S,D); all three may be packed into the query."""
    if key is None:
        size = query.shape[-1] // (heads + 2 * shared)
        query, key, value = np.split(query, (heads * size, (heads + shared) * size), -1)
    assert value is not None
    return _split(query, heads), _split(key, shared), _split(value, shared)


def _read_before(seqlens: Array, length: int, longest: int) -> NDArray[np.int64]:
    """Return how many tokens each row (B,) has read before the `length` new ones.

    Raises:
        ValueError: the numbers contradict each other.
    """
    ends = seqlens.reshape(-1).astype(np.int64) + 1
    before = np.zeros_like(ends) if longest == length else ends - length
    if longest < length or (ends > longest).any() or (before < 0).any():
        raise ValueError(f"seqlens_k {seqlens.tolist()} do not fit {longest} tokens in all, {length} of them new")
    return before


def _extended(new: Array, past: Array | None, before: NDArray[np.int64], longest: int) -> Array:
    """Return a cache (B,H,C,D) with new tokens behind those that each row has read."""
    rows, heads, length, size = new.shape
    cache = np.zeros((rows, heads, max(longest, 0 if past is None else past.shape[2]), size), new.dtype)
    for row, start in enumerate(before):
        if past is not None:
            cache[row, :, :start] = past[row, :, :start]
        cache[row, :, start : start + length] = new[row]
    return cache


def multi_head(
    query: Array, key: Array | None = None, value: Array | None = None, bias: Array | None = None,
    padding: Array | None = None, attention_bias: Array | None = None, past_key: Array | None = None,
    past_value: Array | None = None, *further: Any, num_heads: int, scale: float = 0.0, unidirectional: int = 0,
    mask_filter_value: float = -10000.0, count: int = 1, **_: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Attention whose heads have keys of their own."""
    if query.ndim != 3 or key is None or value is None or any(item is not None for item in further) or count > 3:
        raise UndefinedError("packed inputs")
    if key.ndim == 5 or (padding is not None and padding.ndim == 1):
        raise UndefinedError("packed inputs")
    if bias is not None:
        width = query.shape[-1]
        query = query + bias[:width]
        if key.ndim == 3:
            key, value = key + bias[width : 2 * width], value + bias[2 * width :]
    q = _split(query, num_heads)
    k, v = (item if item.ndim == 4 else _split(item, num_heads) for item in (key, value))
    if past_key is not None and past_value is not None:
        k, v = np.concatenate([past_key, k], 2), np.concatenate([past_value, v], 2)
    length, held = q.shape[2], k.shape[2]
    seen = np.ones((1, 1, length, held), bool)
    if unidirectional:
        seen = seen & (np.arange(held) <= np.arange(length)[:, None] + held - length)
    added = attention_bias
    if padding is not None:
        mask = padding[:, None] if padding.ndim == 3 else padding[:, None, None]
        if mask.shape[-1] != held:
            raise UndefinedError("padding")
        hidden = np.where(mask != 0, 0.0, mask_filter_value).astype(q.dtype)
        added = hidden if added is None else added + hidden
    y = _attention(q, k, v, seen, added, scale or q.shape[-1] ** -0.5)
    return (_merged(y), k, v)[:count]


def self_attention(
    x: Array, weights: Array, bias: Array | None = None, mask: Array | None = None, *further: Any, num_heads: int,
    qkv_hidden_sizes: Any = None, do_rotary: int = 0, count: int = 1, **attributes: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Attention of a sequence to itself, with the weights of query, key and value in one matrix."""
    if any(item is not None for item in further) or do_rotary or count > 1 or (mask is not None and mask.ndim != 2):
        raise UndefinedError("a cache, or another mask")
    width = weights.shape[1] // 3
    ends = list(np.cumsum(qkv_hidden_sizes)[:2]) if qkv_hidden_sizes else [width, 2 * width]
    packed = wide(x) @ wide(weights) if bias is None else wide(x) @ wide(weights) + bias
    q, k, v = np.split(packed.astype(x.dtype), ends, -1)
    return multi_head(q, k, v, None, mask, num_heads=num_heads, count=count, **attributes)


def _attention(
    q: Array, k: Array, v: Array, seen: Array, bias: Array | None, scale: float, softcap: float = 0.0,
    sink: Array | None = None,
) -> Array:  # fmt: skip
    """Return softmax(q kᵀ scale + bias) v of heads (B,N,S,D); keys that are not seen count nothing."""
    scores = wide(q) @ np.swapaxes(wide(k), -1, -2) * scale
    scores = softcap * np.tanh(scores / softcap) if softcap else scores
    scores = np.where(seen, scores if bias is None else scores + bias, -np.inf)
    top = scores.max(-1, keepdims=True)
    if sink is not None:
        top = np.maximum(top, sink.reshape(1, -1, 1, 1))
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(-1, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink.reshape(1, -1, 1, 1) - top)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return np.asarray(shares @ wide(v)).astype(q.dtype)


def linear_attention(
    query: Array, key: Array, value: Array, state: Array | None = None, decay: Array | None = None,
    beta: Array | None = None, *, q_num_heads: int, kv_num_heads: int, update_rule: Any = "gated_delta",
    scale: float = 0.0, state_window: int = 0, count: int = 2, **_: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """A recurrence over an outer product of keys and values, with decay and corrections."""
    rule = update_rule.decode() if isinstance(update_rule, bytes) else update_rule
    if state_window or q_num_heads % kv_num_heads:
        raise UndefinedError("a window of states")
    q, k, v = _split(query, q_num_heads), _split(key, kv_num_heads), _split(value, kv_num_heads)
    batch, _, length, size = k.shape
    kept = np.zeros((batch, kv_num_heads, size, v.shape[-1]), wide(q).dtype) if state is None else wide(state)
    gates = None if decay is None else np.exp(_split(decay, kv_num_heads))
    rates = None if beta is None else _split(beta, beta.shape[-1])
    share, results = q_num_heads // kv_num_heads, []
    for step in range(length):
        if gates is not None and rule.startswith("gated"):
            kept = kept * gates[:, :, step, :, None]
        change = v[:, :, step]
        if rule.endswith("delta"):
            assert rates is not None
            change = (change - np.einsum("bhkv,bhk->bhv", kept, k[:, :, step])) * rates[:, :, step]
        kept = kept + k[:, :, step, :, None] * change[:, :, None]
        results.append(np.einsum("bhk,bhkv->bhv", q[:, :, step], kept.repeat(share, 1)) * (scale or size**-0.5))
    y = np.stack(results, 2).astype(query.dtype) if results else np.zeros((*q.shape[:3], v.shape[-1]), query.dtype)
    return (_merged(y), kept.astype(query.dtype if state is None else state.dtype))[:count]


def causal_conv(
    x: Array, weight: Array, bias: Array | None = None, past: Array | None = None, *, activation: Any = "none",
    ndim: int = 1, dilation: int = 1, channels_last: int = 0, state_window: int = 0, count: int = 2, **_: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """A depthwise convolution that sees the past alone, with what it saw as its state."""
    kind = activation.decode() if isinstance(activation, bytes) else activation
    if ndim != 1 or channels_last or state_window or kind not in ("none", "", "silu", "swish"):
        raise UndefinedError("layout")
    taps = weight.shape[-1]
    held = (taps - 1) * dilation
    before = np.zeros((*x.shape[:2], held), x.dtype) if past is None else past
    whole = np.concatenate([before, x], -1)
    length = x.shape[-1]
    y = sum(whole[..., tap * dilation : tap * dilation + length] * weight[:, 0, tap, None] for tap in range(taps))
    y = y if bias is None else y + bias[:, None]
    if kind in ("silu", "swish"):
        y = y / (1 + np.exp(-y))
    return (np.asarray(y).astype(x.dtype), whole[..., whole.shape[-1] - held :])[:count]


def _split(x: Array, heads: int) -> Array:
    """Return (B,S,N·D) as (B,N,S,D)."""
    return np.asarray(x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3))


def _merged(x: Array) -> Array:
    """Return (B,N,S,D) as (B,S,N·D)."""
    return np.asarray(x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1))


def wide(x: Array) -> Array:
    """Return numbers of half precision in float32, in which every processor adds them."""
    return x if x.dtype.itemsize >= 4 else x.astype(np.float32)
