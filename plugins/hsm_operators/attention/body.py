"""The bodies of the attention operators, in parts: what a query may see, its scores, and their weighted values.

They make the scores of all pairs of a query and a key; everything is computed in float32.
"""

from __future__ import annotations

# Sizes are vectors of one element.
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

# all_keys (B,S,G,d), visible (1 or B,1,T,S)  ->  products (B,H,T,S). The query heads of a group stand below each other,
# so that one product serves all of them.
_PRODUCTS = """
  scale_scalar = Constant <value_float: float = @scale> ()
  q_scaled = Mul (q32, scale_scalar)
  q_heads = Transpose <perm = [0, 2, 1, 3]> (q_scaled)
  q_shape = Concat <axis = 0> (B, G, last, d)
  q_groups = Reshape <allowzero = 1> (q_heads, q_shape)
  k_columns = Transpose <perm = [0, 2, 3, 1]> (all_keys)
  score_groups = MatMul (q_groups, k_columns)
  score_shape = Concat <axis = 0> (B, H, T, S)
  SCORES = Reshape <allowzero = 1> (score_groups, score_shape)
"""

# scores (B,H,T,S), all_values (B,S,G,e) without NaN, visible (1 or B,1,T,S)  ->  y.
_WEIGH = """
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

# The products of every query with the keys of distances, (B,H,T,P), moved to the columns of the keys at that distance.
# Row t of a whole sequence moves left by T-1-t columns. One column of padding makes the rows P+1 long, and reading them
# as rows of P, from T-1 on, shifts each by one less than the one before.
_DISTANCES_OF_TOKENS = """
  P = Shape <start = 0, end = 1> (relative_keys)
  relative32 = Cast <to = 1> (relative_keys)
  relative_columns = Transpose <perm = [1, 2, 0]> (relative32)
  distance_scores = MatMul (q_heads, relative_columns)
  pads = Constant <value_ints = [0, 0, 0, 0, 0, 0, 0, 1]> ()
  padded_scores = Pad (distance_scores, pads)
  first_number = Sub (T, one)
  all_numbers = Mul (T, P)
  padded_numbers = Add (all_numbers, T)
  flat_shape = Concat <axis = 0> (B, H, padded_numbers)
  flat_scores = Reshape <allowzero = 1> (padded_scores, flat_shape)
  end_number = Add (first_number, all_numbers)
  moved_scores = Slice (flat_scores, first_number, end_number, two)
  moved_shape = Concat <axis = 0> (B, H, T, P)
  moved_rows = Reshape <allowzero = 1> (moved_scores, moved_shape)
  relative_scores = Slice (moved_rows, zero, S, three)
  scores = Add (products, relative_scores)
"""
# Slot s of the cache holds the key of distance s; `relative_row` (B,1,T,S) is the one of a query and a key.
_DISTANCES_OF_SLOTS = """
  past_relatives = Cast <to = 1> (relative_cache)
  relative32 = Cast <to = 1> (relative)
  relative_flat = Concat <axis = 0> (last, H, d)
  relative_rows = Reshape <allowzero = 1> (relative32, relative_flat)
  new_relatives = Gather <axis = 0> (relative_rows, flat_source)
  cached_relatives = Where (new_slots, new_relatives, past_relatives)
  relative_cache_out = CastLike (cached_relatives, relative_cache)
  all_relatives = Where (used_slots, cached_relatives, f0)
  relative_columns = Transpose <perm = [0, 2, 3, 1]> (all_relatives)
  distance_scores = MatMul (q_heads, relative_columns)
  relative_row = Sub (token_column, slot_rows)
  P = Identity (S)
"""
# Row window-1-s holds the key of distance s.
_DISTANCES_IN_WINDOW = """
  P = Shape <start = 0, end = 1> (relative_keys)
  relative32 = Cast <to = 1> (relative_keys)
  relative_columns = Transpose <perm = [1, 2, 0]> (relative32)
  distance_scores = MatMul (q_heads, relative_columns)
  after_window = Sub (key_positions, out_of_window)
  relative_row = Sub (after_window, i1)
"""
# Each score of a query is looked up in its own row of the flat products: GatherElements of onnx's evaluator knows 64
# columns only.
_TAKE_DISTANCES = """
  last_row = Sub (P, one)
  not_negative = Max (relative_row, i0)
  column = Min (not_negative, last_row)
  B_times_H = Mul (B, H)
  query_count = Mul (B_times_H, T)
  query_scalar = Squeeze (query_count)
  query = Range (i0, query_scalar, i1)
  query_shape = Concat <axis = 0> (B, H, T, one)
  queries = Reshape <allowzero = 1> (query, query_shape)
  first_column = Mul (queries, P)
  flat_column = Add (first_column, column)
  flat_scores = Reshape (distance_scores, last)
  relative_scores = Gather <axis = 0> (flat_scores, flat_column)
  scores = Add (products, relative_scores)
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

_PLAIN = _PRODUCTS.replace("SCORES", "scores") + _WEIGH
_RELATIVE = _PRODUCTS.replace("SCORES", "products")

ATTENTION = _SIZES + _WHOLE + _PLAIN
ATTENTION_CACHED = _SIZES + _CACHE + _WRITE + _WRITE_CACHE + _SEE_CACHE + _PLAIN
WINDOW_ATTENTION_CACHED = _SIZES + _RING + _WRITE + _WRITE_RING + _SEE_RING + _PLAIN
RELATIVE_ATTENTION = _SIZES + _WHOLE + _RELATIVE + _DISTANCES_OF_TOKENS + _WEIGH
RELATIVE_ATTENTION_CACHED = (
    _SIZES + _CACHE + _WRITE + _WRITE_CACHE + _SEE_CACHE + _RELATIVE + _DISTANCES_OF_SLOTS + _TAKE_DISTANCES + _WEIGH
)
WINDOW_RELATIVE_ATTENTION_CACHED = (
    _SIZES + _RING + _WRITE + _WRITE_RING + _SEE_RING + _RELATIVE + _DISTANCES_IN_WINDOW + _TAKE_DISTANCES + _WEIGH
)
