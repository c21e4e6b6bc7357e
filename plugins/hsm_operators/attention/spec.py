"""Softmax attention of whole sequences, with a cache and with a ring: softmax(scale q k^T) v over what a query may see.

The relative forms add the products of queries with keys of distances. The bodies make the scores of all pairs of a
query and a key; the kernels keep a tile of them. A query without any visible key gives zeros.
"""

from __future__ import annotations

from dataclasses import replace

from ..operator import Attribute, Cost, Dimension, Operator, Port, RowRange, Rule, State
from . import body

DIMENSIONS = (
    Dimension("S", "keys", words="keys"),
    Dimension("G", "key_heads", 1, 2**20, "key and value heads"),
    Dimension("C", "capacity", 1, words="slots of the cache"),
    Dimension("R", "slots", 1, words="slots of the ring"),
    Dimension("P", "distances", 1, words="keys of distances"),
)
_GROUPS = Rule("H % G == 0", "the {H} query heads do not split into G = {G} groups, one for each key head")

_QUERY = Port("q", "T", ("B", "T", "H", "d"), "Queries.")
_RESULT = Port("y", "T", ("B", "T", "H", "e"), "The result.")
_SCALE = Attribute("scale", "float", "Factor on the products of queries and keys.")
_NEW_KEYS = Port("k", "T", ("B", "T", "G", "d"), "Keys of the new tokens, one for each group of H / G query heads.")
_NEW_VALUES = Port("v", "T", ("B", "T", "G", "e"), "Values of the new tokens.")
_NEW_LENGTHS = Port(
    "lengths",
    "tensor(int64)",
    ("B",),
    "How many tokens of the row are valid, 0 ... T.",
    RowRange("0", "T", "from 0 to T = {T}"),
)

ATTENTION = Operator(
    name="Attention",
    description=(
        "Softmax attention: y[b,t,h] = sum over the visible keys s of softmax(scale q[b,t,h] k[b,s,g]) v[b,s,g], "
        "g being the group of head h. Key s is visible to query t below the row's length, with causal from s = t on "
        "backwards, with a window where s > t - window."
    ),
    inputs=(
        _QUERY,
        Port("k", "T", ("B", "S", "G", "d"), "Keys, one for each group of H / G query heads."),
        Port("v", "T", ("B", "S", "G", "e"), "Values."),
        Port(
            "lengths",
            "tensor(int64)",
            ("B",),
            "How many keys of the row are valid, 0 ... S.",
            RowRange("0", "S", "from 0 to S = {S}"),
        ),
    ),
    outputs=(_RESULT,),
    attributes=(
        Attribute("causal", "int", "1: query t sees no key after t; 0: it may see all of them.", 0, 1),
        Attribute("window", "int", "Query t sees no key before t - window + 1; 0: it may see all of them.", 0),
        _SCALE,
    ),
    body=body.ATTENTION,
    dimensions=DIMENSIONS,
    rules=(_GROUPS,),
    cost=Cost(
        "B*H*T*(2*d + 2*e + 5)*(min(S, window) if window > 0 else S)",
        "H(2d+2e+5)·(keys, at most the window)",
    ),
    details={
        "heads": "H",
        "key_heads": "G",
        "head_dim": "d",
        "value_dim": "e",
        "causal": "causal",
        "window": "window",
    },
    plugin=False,
)

ATTENTION_CACHED = Operator(
    name="AttentionCached",
    description=(
        "Causal Attention of a sequence that arrives in pieces: the keys and values of all tokens of a row are in a "
        "cache, that of position p in slot p. New ones are written at `position`, and slots beyond them are not read."
    ),
    inputs=(
        _QUERY,
        _NEW_KEYS,
        _NEW_VALUES,
        Port("key_cache", "T", ("B", "C", "G", "d"), "Keys of the tokens before, that of position p in slot p."),
        Port("value_cache", "T", ("B", "C", "G", "e"), "Their values."),
        Port(
            "position",
            "tensor(int64)",
            ("B",),
            "How many tokens of the row came before.",
            RowRange(
                "0", "C - T", "from 0 to C - lengths, as the cache has C = {C} slots", where="lengths", valid="lengths"
            ),
        ),
        _NEW_LENGTHS,
    ),
    outputs=(
        _RESULT,
        Port("key_cache_out", "T", ("B", "C", "G", "d"), "The keys with the row's valid tokens."),
        Port("value_cache_out", "T", ("B", "C", "G", "e"), "The values with the row's valid tokens."),
    ),
    attributes=(_SCALE,),
    body=body.ATTENTION_CACHED,
    dimensions=DIMENSIONS,
    rules=(_GROUPS, Rule("C >= T", "the cache has C = {C} slots, fewer than the T = {T} new tokens")),
    states=(
        State("key_cache", "key_cache_out", capacity="C", rollback="position"),
        State("value_cache", "value_cache_out", capacity="C", rollback="position"),
    ),
    cost=Cost(
        "B*H*T*C*(2*d + 2*e + 5)",
        "H(2d+2e+5)·(tokens so far)",
        "T_bytes*(B*T*(2*H + 2*G)*(d + e) + B*C*G*(d + e)) + 16*B",
    ),
    details={"heads": "H", "key_heads": "G", "head_dim": "d", "value_dim": "e", "capacity": "C"},
    kernel="attention",
    plugin=False,
)

WINDOW_ATTENTION_CACHED = Operator(
    name="WindowAttentionCached",
    description=(
        "Causal Attention with a window, of a sequence that arrives in pieces: a ring holds the keys and values of the "
        "last R tokens of each row, that of position p in slot p mod R."
    ),
    inputs=(
        _QUERY,
        _NEW_KEYS,
        _NEW_VALUES,
        Port("key_ring", "T", ("B", "R", "G", "d"), "Keys of the last tokens, that of position p in slot p mod R."),
        Port("value_ring", "T", ("B", "R", "G", "e"), "Their values."),
        Port(
            "position",
            "tensor(int64)",
            ("B",),
            "How many tokens of the row came before.",
            RowRange("0", "9223372036854775807 - T", "from 0 to 2^63 - 1 - T", where="lengths"),
        ),
        _NEW_LENGTHS,
    ),
    outputs=(
        _RESULT,
        Port("key_ring_out", "T", ("B", "R", "G", "d"), "The keys after the row's valid tokens."),
        Port("value_ring_out", "T", ("B", "R", "G", "e"), "The values after the row's valid tokens."),
    ),
    attributes=(
        Attribute("window", "int", "Keys that a query sees at most, its own included.", 1),
        _SCALE,
    ),
    body=body.WINDOW_ATTENTION_CACHED,
    dimensions=DIMENSIONS,
    rules=(_GROUPS, Rule("R >= window", "the ring has R = {R} slots, fewer than the window {window}")),
    states=(
        State("key_ring", "key_ring_out", rollback="slots"),
        State("value_ring", "value_ring_out", rollback="slots"),
    ),
    cost=Cost(
        "B*H*T*window*(2*d + 2*e + 5)",
        "H(2d+2e+5)·window",
        "T_bytes*(B*T*(2*H + 2*G)*(d + e) + B*min(R, window)*G*(d + e)) + 16*B",
    ),
    details={"heads": "H", "key_heads": "G", "head_dim": "d", "value_dim": "e", "window": "window", "ring": "R"},
    kernel="attention",
    plugin=False,
)


def _relative(
    plain: Operator,
    name: str,
    description: str,
    inputs: tuple[Port, ...],
    body: str,
    outputs: tuple[Port, ...] = (),
    rule: Rule | None = None,
    states: tuple[State, ...] = (),
    read: str = "",
) -> Operator:
    """Return the operator with relative positions: besides what `plain` has, `inputs`, `outputs` and the like.

    `read` counts the numbers that are read and written besides, as an expression; "" is all inputs and outputs.
    """
    cost = plain.cost
    assert cost is not None
    return replace(
        plain,
        name=name,
        description=description,
        inputs=(*plain.inputs, *inputs),
        outputs=(*plain.outputs, *outputs),
        body=body,
        rules=(*plain.rules, rule) if rule else plain.rules,
        states=(*plain.states, *states),
        cost=Cost(
            cost.flops.replace("2*d", "4*d"),
            cost.formula.replace("2d", "4d"),
            f"{cost.bytes} + T_bytes*({read})" if cost.bytes else "",
        ),
        torch_name="",
    )


RELATIVE_ATTENTION = _relative(
    ATTENTION,
    name="RelativeAttention",
    description=(
        "Attention with relative positions (Transformer-XL's, without its biases): the score of query t and key s is "
        "scale q[b,t,h] (k[b,s,g] + relative_keys[s-t+T-1,h])."
    ),
    inputs=(
        Port("relative_keys", "T", ("P", "H", "d"), "Keys of distances: row T - 1 + j is that of the key j behind."),
    ),
    body=body.RELATIVE_ATTENTION,
    rule=Rule(
        "P >= (max(T, S) if causal == 1 else T + S - 1)",
        "there are keys of P = {P} distances, fewer than the T = {T} queries and S = {S} keys are apart",
    ),
)

RELATIVE_ATTENTION_CACHED = _relative(
    ATTENTION_CACHED,
    name="RelativeAttentionCached",
    description=(
        "Causal RelativeAttention of a sequence that arrives in pieces, as AttentionCached. The keys of distances are "
        "in a cache too, that of distance p in slot p: with the token of position p comes the key of distance p."
    ),
    inputs=(
        Port("relative", "T", ("B", "T", "H", "d"), "Keys of the distances position, position + 1, ..."),
        Port(
            "relative_cache", "T", ("B", "C", "H", "d"), "Keys of the distances before, that of distance p in slot p."
        ),
    ),
    outputs=(Port("relative_cache_out", "T", ("B", "C", "H", "d"), "The keys of distances with the row's new ones."),),
    body=body.RELATIVE_ATTENTION_CACHED,
    states=(State("relative_cache", "relative_cache_out", capacity="C", rollback="position"),),
    read="B*C*H*d + B*T*H*d",
)

WINDOW_RELATIVE_ATTENTION_CACHED = _relative(
    WINDOW_ATTENTION_CACHED,
    name="WindowRelativeAttentionCached",
    description=(
        "Causal RelativeAttention with a window, of a sequence that arrives in pieces, as WindowAttentionCached: the "
        "score of query t and a key j tokens before it is scale q[b,t,h] (k + relative_keys[window-1-j,h])."
    ),
    inputs=(
        Port(
            "relative_keys", "T", ("P", "H", "d"), "Keys of distances: row window - 1 - j is that of the key j before."
        ),
    ),
    body=body.WINDOW_RELATIVE_ATTENTION_CACHED,
    rule=Rule("P >= window", "there are keys of P = {P} distances, fewer than the window {window}"),
    read="window*H*d",
)

# Costs count all pairs, as papers do, though causal kernels compute half of them.
OPERATORS = (
    ATTENTION,
    ATTENTION_CACHED,
    WINDOW_ATTENTION_CACHED,
    RELATIVE_ATTENTION,
    RELATIVE_ATTENTION_CACHED,
    WINDOW_RELATIVE_ATTENTION_CACHED,
)
