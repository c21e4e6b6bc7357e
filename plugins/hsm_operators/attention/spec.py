"""Attention, AttentionCached and WindowAttentionCached: softmax(scale q k^T) v over the keys that a query may see.

The bodies make the scores of all pairs of a query and a key; the kernels keep a tile of them. A query without any
visible key gives zeros.
"""

from __future__ import annotations

from ..operator import Attribute, Cost, Dimension, Operator, Port, RowRange, Rule, State

DIMENSIONS = (
    Dimension("S", "keys", words="keys"),
    Dimension("G", "key_heads", 1, 2**20, "key and value heads"),
    Dimension("C", "capacity", 1, words="slots of the cache"),
    Dimension("R", "slots", 1, words="slots of the ring"),
)
_GROUPS = Rule("H % G == 0", "the {H} query heads do not split into G = {G} groups, one for each key head")

# Everything in float32; sizes as vectors of one element.
_SIZES = """
  B = Shape <start = 0, end = 1> (q)
  T = Shape <start = 1, end = 2> (q)
  H = Shape <start = 2, end = 3> (q)
  d = Shape <start = 3, end = 4> (q)
  G = Shape <start = 2, end = 3> (k)
  e = Shape <start = 3, end = 4> (v)
  q32 = Cast <to = 1> (q)
  k32 = Cast <to = 1> (k)
  v32 = Cast <to = 1> (v)
  T_scalar = Squeeze (T)
  token = Range (i0, T_scalar, i1)
  token_axes = Constant <value_ints = [2, 3]> ()
"""

# all_keys (B,S,G,d), all_values (B,S,G,e) without NaN, visible (1 or B,1,T,S)  ->  y. The query heads of a group stand
# below each other, so that one product serves all of them.
_ATTEND = """
  scale_scalar = Constant <value_float: float = @scale> ()
  q_scaled = Mul (q32, scale_scalar)
  q_heads = Transpose <perm = [0, 2, 1, 3]> (q_scaled)
  q_shape = Concat <axis = 0> (B, G, last, d)
  q_groups = Reshape <allowzero = 1> (q_heads, q_shape)
  k_columns = Transpose <perm = [0, 2, 3, 1]> (all_keys)
  score_groups = MatMul (q_groups, k_columns)
  score_shape = Concat <axis = 0> (B, H, T, S)
  scores = Reshape <allowzero = 1> (score_groups, score_shape)
  lowest = Constant <value_float = -3.4028234663852886e38> ()
  seen_scores = Where (visible, scores, lowest)
  all_weights = Softmax <axis = -1> (seen_scores)
  weights = Where (visible, all_weights, f0)
  weight_shape = Concat <axis = 0> (B, G, last, S)
  weight_groups = Reshape <allowzero = 1> (weights, weight_shape)
  v_heads = Transpose <perm = [0, 2, 1, 3]> (all_values)
  y_groups = MatMul (weight_groups, v_heads)
  y_shape = Concat <axis = 0> (B, H, T, e)
  y_heads = Reshape <allowzero = 1> (y_groups, y_shape)
  y32 = Transpose <perm = [0, 2, 1, 3]> (y_heads)
  y = CastLike (y32, q)
"""

# Keys beyond a row's length are replaced: they may hold anything. The attributes are arithmetic.
_WHOLE = """
  S = Shape <start = 1, end = 2> (k)
  S_scalar = Squeeze (S)
  key = Range (i0, S_scalar, i1)
  length_column = Unsqueeze (lengths, one)
  valid = Less (key, length_column)
  valid_keys = Unsqueeze (valid, token_axes)
  all_keys = Where (valid_keys, k32, f0)
  all_values = Where (valid_keys, v32, f0)
  causal_int = Constant <value_int: int = @causal> ()
  window_int = Constant <value_int: int = @window> ()
  token_column = Unsqueeze (token, one)
  not_after = LessOrEqual (key, token_column)
  is_full = Equal (causal_int, i0)
  in_order = Or (not_after, is_full)
  out_of_window = Sub (token_column, window_int)
  inside = Greater (key, out_of_window)
  is_open = Equal (window_int, i0)
  in_window = Or (inside, is_open)
  pairs = And (in_order, in_window)
  valid_axes = Constant <value_ints = [1, 2]> ()
  valid_row = Unsqueeze (valid, valid_axes)
  visible = And (pairs, valid_row)
"""

# Slot s of the cache holds the key of position s. `source` (B,C) is the token that falls on a slot. A row that outgrows
# the cache must fail: the slot of its last token is looked up, and the difference from what it should be, 0, is added.
# Slots are a row (1,C): onnx's checker follows what Sub makes of known vectors, and takes a column for one of them.
_CACHE = """
  S = Shape <start = 1, end = 2> (key_cache)
  S_scalar = Squeeze (S)
  slot = Range (i0, S_scalar, i1)
  end_of_row = Add (position, lengths)
  last_of_row = Sub (end_of_row, i1)
  stands_still = LessOrEqual (lengths, i0)
  last_slot = Where (stands_still, i0, last_of_row)
  found_slot = Gather <axis = 0> (slot, last_slot)
  slot_error = Sub (found_slot, last_slot)
  position_known = Add (position, slot_error)
  position_column = Unsqueeze (position_known, one)
  slot_row = Unsqueeze (slot, zero)
  length_column = Unsqueeze (lengths, one)
  token_of_slot = Sub (slot_row, position_column)
  last_token = Sub (T_scalar, i1)
  not_below = Max (token_of_slot, i0)
  source = Min (not_below, last_token)
  not_before = GreaterOrEqual (token_of_slot, i0)
  before_end = Less (token_of_slot, length_column)
  is_new = And (not_before, before_end)
"""

# Slot s of the ring holds the newest key whose position is s mod R: its position is `slot_position`, negative where
# there is none. Behind the R slots come the new tokens, so that a call may be longer than the ring.
_RING = """
  R = Shape <start = 1, end = 2> (key_ring)
  R_scalar = Squeeze (R)
  slot_vector = Range (i0, R_scalar, i1)
  slot = Unsqueeze (slot_vector, zero)
  position_column = Unsqueeze (position, one)
  length_column = Unsqueeze (lengths, one)
  newest_before = Sub (position_column, i1)
  past_age = Sub (newest_before, slot)
  past_turn = Mod (past_age, R)
  slot_position = Sub (newest_before, past_turn)
  end_position = Add (position_column, length_column)
  newest = Sub (end_position, i1)
  age = Sub (newest, slot)
  turn = Mod (age, R)
  position_after = Sub (newest, turn)
  token_of_slot = Sub (position_after, position_column)
  last_token = Sub (T_scalar, i1)
  not_below = Max (token_of_slot, i0)
  source = Min (not_below, last_token)
  is_new = GreaterOrEqual (token_of_slot, i0)
"""

# The new tokens where they fall, the old ones elsewhere, in T.
_WRITE = """
  B_scalar = Squeeze (B)
  row = Range (i0, B_scalar, i1)
  row_column = Unsqueeze (row, one)
  row_start = Mul (row_column, T)
  flat_source = Add (row_start, source)
  key_flat = Concat <axis = 0> (last, G, d)
  value_flat = Concat <axis = 0> (last, G, e)
  key_rows = Reshape <allowzero = 1> (k32, key_flat)
  value_rows = Reshape <allowzero = 1> (v32, value_flat)
  new_keys = Gather <axis = 0> (key_rows, flat_source)
  new_values = Gather <axis = 0> (value_rows, flat_source)
  new_slots = Unsqueeze (is_new, token_axes)
"""
_WRITE_CACHE = """
  past_keys = Cast <to = 1> (key_cache)
  past_values = Cast <to = 1> (value_cache)
  cached_keys = Where (new_slots, new_keys, past_keys)
  cached_values = Where (new_slots, new_values, past_values)
  key_cache_out = CastLike (cached_keys, key_cache)
  value_cache_out = CastLike (cached_values, value_cache)
"""
_WRITE_RING = """
  past_keys = Cast <to = 1> (key_ring)
  past_values = Cast <to = 1> (value_ring)
  keys_after = Where (new_slots, new_keys, past_keys)
  values_after = Where (new_slots, new_values, past_values)
  key_ring_out = CastLike (keys_after, key_ring)
  value_ring_out = CastLike (values_after, value_ring)
"""

# The keys of a cache are those of the slots below position + lengths.
_SEE_CACHE = """
  used = Less (token_of_slot, length_column)
  used_slots = Unsqueeze (used, token_axes)
  all_keys = Where (used_slots, cached_keys, f0)
  all_values = Where (used_slots, cached_values, f0)
  row_axes = Constant <value_ints = [1, 2]> ()
  slot_rows = Unsqueeze (token_of_slot, row_axes)
  used_rows = Unsqueeze (used, row_axes)
  token_column = Unsqueeze (token, one)
  not_after = LessOrEqual (slot_rows, token_column)
  visible = And (not_after, used_rows)
"""
_SEE_RING = """
  is_held = GreaterOrEqual (slot_position, i0)
  valid = Less (token, length_column)
  used = Concat <axis = 1> (is_held, valid)
  token_position = Add (position_column, token)
  key_position = Concat <axis = 1> (slot_position, token_position)
  S = Add (R, T)
  held_keys = Concat <axis = 1> (past_keys, k32)
  held_values = Concat <axis = 1> (past_values, v32)
  used_keys = Unsqueeze (used, token_axes)
  all_keys = Where (used_keys, held_keys, f0)
  all_values = Where (used_keys, held_values, f0)
  row_axes = Constant <value_ints = [1, 2]> ()
  query_axes = Constant <value_ints = [1, 3]> ()
  key_positions = Unsqueeze (key_position, row_axes)
  query_positions = Unsqueeze (token_position, query_axes)
  used_rows = Unsqueeze (used, row_axes)
  window_int = Constant <value_int: int = @window> ()
  out_of_window = Sub (query_positions, window_int)
  not_after = LessOrEqual (key_positions, query_positions)
  inside = Greater (key_positions, out_of_window)
  in_order = And (not_after, inside)
  visible = And (in_order, used_rows)
"""

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
    body=_SIZES + _WHOLE + _ATTEND,
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
    body=_SIZES + _CACHE + _WRITE + _WRITE_CACHE + _SEE_CACHE + _ATTEND,
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
    body=_SIZES + _RING + _WRITE + _WRITE_RING + _SEE_RING + _ATTEND,
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

# Costs count all pairs, as papers do, though causal kernels compute half of them.
OPERATORS = (ATTENTION, ATTENTION_CACHED, WINDOW_ATTENTION_CACHED)
