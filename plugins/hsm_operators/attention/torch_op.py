"""Softmax attention in PyTorch: whole sequences, and pieces of them with a cache or a ring of keys and values.

The maths is plain: scores of all pairs in float32, hidden ones without weight. Query heads may share key heads. The
relative forms add the products of queries with keys of distances (Transformer-XL, arXiv:1901.02860, without biases).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import accumulator
from ..registration import register, require


def attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, causal: bool = True, window: int = 0, scale: float = 1.0
) -> Tensor:
    """Return softmax(scale q k^T) v over the keys that each query may see.

    Args:
        q: (B,T,H,d), any float dtype.
        k: (B,S,G,d) of the same dtype; G divides H, and query head h reads key head h // (H / G).
        v: (B,S,G,e) of the same dtype.
        lengths: (B,) int64, valid keys of each row, 0..S; what stands behind is not looked at.
        causal: query t sees keys up to t.
        window: query t sees keys from t - window + 1 on; 0 is all.
        scale: factor on the scores.

    Returns:
        (B,T,H,e) of q's dtype; zeros where a query sees no key.

    Raises:
        ValueError: shapes or dtypes that contradict each other.
    """
    result: Tensor = _attention(q, k, v, lengths, causal, window, scale)
    return result


def attention_cached(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    position: Tensor,
    lengths: Tensor,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend causally to the tokens so far, whose keys and values are in a cache.

    Args:
        q: (B,T,H,d), any float dtype.
        k, v: (B,T,G,d) and (B,T,G,e) of the same dtype, those of the new tokens.
        key_cache, value_cache: (B,C,G,d) and (B,C,G,e) of the same dtype; the token of position p is in slot p.
        position: (B,) int64, tokens of each row that came before.
        lengths: (B,) int64, valid new tokens of each row, 0..T; position + lengths <= C.
        scale: factor on the scores.

    Returns:
        y (B,T,H,e), unspecified beyond `lengths`, and the caches with the valid new tokens.

    Raises:
        ValueError: shapes or dtypes that contradict each other, or a row that outgrows its cache.
    """
    y, keys, values = _attention_cached(q, k, v, key_cache, value_cache, position, lengths, scale)
    return y, keys, values


def window_attention_cached(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_ring: Tensor,
    value_ring: Tensor,
    position: Tensor,
    lengths: Tensor,
    window: int,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend to the last `window` tokens, whose keys and values are in a ring.

    Args:
        key_ring, value_ring: (B,R,G,d) and (B,R,G,e), R >= window; the token of position p is in slot p mod R.
        window: keys that a query sees at most, its own included.

    The other arguments, the results and the errors are those of `attention_cached`; a ring is never outgrown.
    """
    y, keys, values = _window_attention_cached(q, k, v, key_ring, value_ring, position, lengths, window, scale)
    return y, keys, values


def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    relative_keys: Tensor,
    causal: bool = True,
    window: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """Attend with scores scale q[t] (k[s] + relative_keys[s - t + T - 1]).

    Args:
        relative_keys: (P,H,d) of q's dtype; row T - 1 + j is the key of the distance of a key j behind the query. When
            causal, P >= max(T, S); else P >= T + S - 1.

    The other arguments, the result and the errors are those of `attention`.
    """
    result: Tensor = _relative_attention(q, k, v, lengths, relative_keys, causal, window, scale)
    return result


def relative_attention_cached(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    position: Tensor,
    lengths: Tensor,
    relative: Tensor,
    relative_cache: Tensor,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attend causally with relative positions to the tokens so far.

    Args:
        relative: (B,T,H,d) of q's dtype, the keys of the distances position, position + 1, ...
        relative_cache: (B,C,H,d) of the same dtype; the key of distance p is in slot p.

    The other arguments and the errors are those of `attention_cached`, and so are the results: the relative cache
    comes fourth.
    """
    given = q, k, v, key_cache, value_cache, position, lengths, relative, relative_cache, scale
    y, keys, values, relatives = _relative_attention_cached(*given)
    return y, keys, values, relatives


def window_relative_attention_cached(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_ring: Tensor,
    value_ring: Tensor,
    position: Tensor,
    lengths: Tensor,
    relative_keys: Tensor,
    window: int,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend with relative positions to the last `window` tokens.

    Args:
        relative_keys: (P,H,d) of q's dtype, P >= window; row window - 1 - j is the key of distance j.

    The other arguments, the results and the errors are those of `window_attention_cached`.
    """
    given = q, k, v, key_ring, value_ring, position, lengths, relative_keys, window, scale
    y, keys, values = _window_relative_attention_cached(*given)
    return y, keys, values


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        require(
            tensor.dim() == 4 and tensor.is_floating_point() and tensor.dtype == q.dtype,
            f"{name} must have 4 dimensions and q's dtype {q.dtype}, got {tensor.dtype} {tuple(tensor.shape)}",
        )
    require(
        k.shape[0] == q.shape[0] and k.shape[3] == q.shape[3] and k.shape[:3] == v.shape[:3],
        f"k {tuple(k.shape)} and v {tuple(v.shape)} do not fit q {tuple(q.shape)}",
    )
    heads, groups = q.shape[2], k.shape[2]
    require(groups > 0 and heads % groups == 0, f"{heads} query heads do not split into {groups} groups of a key head")


def _check_rows(q: Tensor, **rows: Tensor) -> None:
    for name, tensor in rows.items():
        require(
            tensor.dtype == torch.int64 and tuple(tensor.shape) == (q.shape[0],),
            f"{name} must be int64 of shape ({q.shape[0]},), got {tensor.dtype} of shape {tuple(tensor.shape)}",
        )


def _check_memory(k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> None:
    for name, new, memory in (("keys", k, keys), ("values", v, values)):
        fits = memory.dim() == 4 and memory.shape[0] == new.shape[0] and memory.shape[2:] == new.shape[2:]
        require(
            fits and memory.dtype == new.dtype and memory.shape[1] == keys.shape[1],
            f"the memory of {name} must be {new.dtype} of the new ones' shape {tuple(new.shape)} but for the tokens, "
            f"got {memory.dtype} {tuple(memory.shape)}",
        )


def _check_relatives(q: Tensor, tokens: tuple[int, ...], relatives: Tensor, least: int) -> None:
    """Refuse keys of distances that are not (*tokens, H, d), where -1 stands for `least` or more of them."""
    found = relatives.shape
    fits = relatives.dtype == q.dtype and len(found) == len(tokens) + 2 and found[-2:] == q.shape[2:]
    if fits:
        fits = all(have >= least if size < 0 else have == size for have, size in zip(found[:-2], tokens, strict=True))
    sizes = (f"at least {least}" if size < 0 else str(size) for size in (*tokens, *q.shape[2:]))
    require(
        fits,
        f"keys of distances must be {q.dtype} of shape ({', '.join(sizes)}), got {relatives.dtype} {tuple(found)}",
    )


def _distance_scores(q: Tensor, relatives: Tensor, row: Tensor, scale: float) -> Tensor:
    """Return the products of q (B,T,H,d) with the keys of distances (1 or B,P,H,d) in rows (1 or B,T,S): (B,H,T,S)."""
    wide = accumulator(q.dtype)
    scores = (q.to(wide) * scale).transpose(1, 2) @ relatives.to(wide).permute(0, 2, 3, 1)
    row = row.clamp(0, max(relatives.shape[1] - 1, 0)).unsqueeze(1)
    return scores.gather(-1, row.expand(*scores.shape[:3], row.shape[3]))


def _attend(
    q: Tensor, k: Tensor, v: Tensor, used: Tensor, visible: Tensor, scale: float, extra: Tensor | None = None
) -> Tensor:
    """Return y (B,T,H,e) from keys and values (B,S,G,·), of which `used` (B,S) may be looked at.

    `visible` (1 or B, T, S) says which of those each query sees, `extra` (B,H,T,S) is added to the scores.
    """
    wide, (batch, length, heads, _), groups = accumulator(q.dtype), q.shape, k.shape[2]
    kept = used.reshape(*used.shape, 1, 1)
    keys, values = torch.where(kept, k, 0).to(wide), torch.where(kept, v, 0).to(wide)
    together = heads // groups * length
    queries = (q.to(wide) * scale).transpose(1, 2).reshape(batch, groups, together, q.shape[3])
    scores = (queries @ keys.permute(0, 2, 3, 1)).reshape(batch, heads, length, k.shape[1])
    scores = scores if extra is None else scores + extra
    shown = (visible & used.unsqueeze(1)).unsqueeze(1)
    weights = torch.softmax(torch.where(shown, scores, torch.finfo(wide).min), dim=-1)
    weights = torch.where(shown, weights, 0).reshape(batch, groups, together, k.shape[1])
    y = (weights @ values.transpose(1, 2)).reshape(batch, heads, length, v.shape[3])
    return y.transpose(1, 2).to(q.dtype).contiguous()


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    causal: bool,
    window: int,
    scale: float,
    extra: Tensor | None = None,
) -> Tensor:
    _check(q, k, v)
    _check_rows(q, lengths=lengths)
    query = torch.arange(q.shape[1], device=q.device).reshape(1, -1, 1)
    key = torch.arange(k.shape[1], device=q.device)
    visible = (key <= query) | (not causal)
    if window:
        visible = visible & (key > query - window)
    return _attend(q, k, v, key < lengths.unsqueeze(1), visible, scale, extra)


def _relative_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    relative_keys: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> Tensor:
    length, keys = q.shape[1], k.shape[1]
    _check_relatives(q, (-1,), relative_keys, max(length, keys) if causal else length + keys - 1)
    wide = accumulator(q.dtype)
    scores = (q.to(wide) * scale).transpose(1, 2) @ relative_keys.to(wide).permute(1, 2, 0)
    return _reference(q, k, v, lengths, causal, window, scale, _moved(scores, keys) if length else None)


def _moved(scores: Tensor, keys: int) -> Tensor:
    """Return the scores of T queries and `keys` keys, (B,H,T,S), from those of all distances, (B,H,T,P).

    Row t moves left by T-1-t columns. One column of padding makes the rows P+1 long, and reading them as rows of P,
    from T-1 on, shifts each by one less than the one before.
    """
    length, distances = scores.shape[2:]
    padded = torch.nn.functional.pad(scores, (0, 1)).flatten(2)
    moved = padded[:, :, length - 1 : length - 1 + length * distances]
    return moved.unflatten(2, (length, distances))[..., :keys]


def _written(memory: Tensor, new: Tensor, source: Tensor, is_new: Tensor) -> Tensor:
    """Return memory (B,S,G,w) with token `source` (B,S) of new (B,T,G,w) where `is_new` (B,S)."""
    if not new.shape[1]:
        return memory.clone()
    index = source.clamp(0, new.shape[1] - 1).reshape(*source.shape, 1, 1)
    return torch.where(is_new.reshape(index.shape), new.gather(1, index.expand(memory.shape)), memory)


def _cached_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    position: Tensor,
    lengths: Tensor,
    scale: float,
    relatives: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    _check(q, k, v)
    _check_rows(q, position=position, lengths=lengths)
    _check_memory(k, v, key_cache, value_cache)
    slots = key_cache.shape[1]
    # A trace knows no numbers, and a GPU would be waited for.
    if type(lengths) is Tensor and lengths.is_cpu:
        longest = int((position + lengths)[lengths > 0].amax()) if bool((lengths > 0).any()) else 0
        require(longest <= slots, f"the cache holds {slots} tokens, but a row reaches {longest}")
    token = torch.arange(slots, device=q.device) - position.unsqueeze(1)
    used = token < lengths.unsqueeze(1)
    is_new = used & (token >= 0)
    keys, values = (_written(past, new, token, is_new) for past, new in ((key_cache, k), (value_cache, v)))
    distance = torch.arange(q.shape[1], device=q.device).reshape(1, -1, 1) - token.unsqueeze(1)
    if relatives is None:
        return _attend(q, keys, values, used, distance >= 0, scale), keys, values
    new, past = relatives
    _check_relatives(q, q.shape[:2], new, 0)
    _check_relatives(q, key_cache.shape[:2], past, 0)
    after = _written(past, new, token, is_new)
    extra = _distance_scores(q, torch.where(used.reshape(*used.shape, 1, 1), after, 0), distance, scale)
    return _attend(q, keys, values, used, distance >= 0, scale, extra), keys, values, after


def _relative_cached_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    position: Tensor,
    lengths: Tensor,
    relative: Tensor,
    relative_cache: Tensor,
    scale: float,
) -> tuple[Tensor, ...]:
    relatives = relative, relative_cache
    return _cached_reference(q, k, v, key_cache, value_cache, position, lengths, scale, relatives)


def _window_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_ring: Tensor,
    value_ring: Tensor,
    position: Tensor,
    lengths: Tensor,
    window: int,
    scale: float,
    relative_keys: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(q, k, v)
    _check_rows(q, position=position, lengths=lengths)
    _check_memory(k, v, key_ring, value_ring)
    slots = key_ring.shape[1]
    require(1 <= window <= slots, f"the ring has {slots} slots; the window {window} must be from 1 to as many")
    first, steps = position.unsqueeze(1), torch.arange(q.shape[1], device=q.device)
    before = _newest(first, slots)
    query_position = first + steps
    used = torch.cat((before >= 0, steps < lengths.unsqueeze(1)), dim=1)
    key_position = torch.cat((before, query_position), dim=1).unsqueeze(1)
    query = query_position.unsqueeze(2)
    visible = (key_position <= query) & (key_position > query - window)
    held = torch.cat((key_ring, k), dim=1), torch.cat((value_ring, v), dim=1)
    extra = None
    if relative_keys is not None:
        _check_relatives(q, (-1,), relative_keys, window)
        extra = _distance_scores(q, relative_keys.unsqueeze(0), key_position - query + window - 1, scale)
    y = _attend(q, *held, used, visible, scale, extra)
    token = _newest(first + lengths.unsqueeze(1), slots) - first
    return y, _written(key_ring, k, token, token >= 0), _written(value_ring, v, token, token >= 0)


def _window_relative_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_ring: Tensor,
    value_ring: Tensor,
    position: Tensor,
    lengths: Tensor,
    relative_keys: Tensor,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _window_reference(q, k, v, key_ring, value_ring, position, lengths, window, scale, relative_keys)


def _newest(end: Tensor, slots: int) -> Tensor:
    """Return the newest position below `end` (B,1) that belongs to each slot of a ring, (B,R); negative for none."""
    return end - 1 - (end - 1 - torch.arange(slots, device=end.device)) % slots


def _fake(q: Tensor, k: Tensor, v: Tensor, *others: object) -> Tensor:
    return q.new_empty((*q.shape[:3], v.shape[3]))


def _cached_fake(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, *others: object
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake(q, k, v), keys.new_empty(keys.shape), values.new_empty(values.shape)


def _relative_cached_fake(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    relatives = others[3]
    return *_cached_fake(q, k, v, keys, values), relatives.new_empty(relatives.shape)


_attention = register(
    "attention",
    "(Tensor q, Tensor k, Tensor v, Tensor lengths, bool causal, int window, float scale) -> Tensor",
    _reference,
    _fake,
)
_attention_cached = register(
    "attention_cached",
    "(Tensor q, Tensor k, Tensor v, Tensor key_cache, Tensor value_cache, Tensor position, Tensor lengths, float scale)"
    " -> (Tensor, Tensor, Tensor)",
    _cached_reference,
    _cached_fake,
)
_window_attention_cached = register(
    "window_attention_cached",
    "(Tensor q, Tensor k, Tensor v, Tensor key_ring, Tensor value_ring, Tensor position, Tensor lengths, int window,"
    " float scale) -> (Tensor, Tensor, Tensor)",
    _window_reference,
    _cached_fake,
)
_relative_attention = register(
    "relative_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor lengths, Tensor relative_keys, bool causal, int window, float scale)"
    " -> Tensor",
    _relative_reference,
    _fake,
)
_relative_attention_cached = register(
    "relative_attention_cached",
    "(Tensor q, Tensor k, Tensor v, Tensor key_cache, Tensor value_cache, Tensor position, Tensor lengths,"
    " Tensor relative, Tensor relative_cache, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
    _relative_cached_reference,
    _relative_cached_fake,
)
_window_relative_attention_cached = register(
    "window_relative_attention_cached",
    "(Tensor q, Tensor k, Tensor v, Tensor key_ring, Tensor value_ring, Tensor position, Tensor lengths,"
    " Tensor relative_keys, int window, float scale) -> (Tensor, Tensor, Tensor)",
    _window_relative_reference,
    _cached_fake,
)
