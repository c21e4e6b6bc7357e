"""DecayedLinearAttention and DecayedDeltaRule: linear attention whose state decays (README.md has the formulas).

The body of the first runs over chunks of at most 16 tokens, that of the second over tokens.
"""

from __future__ import annotations

from ..operator import Attribute, Cost, Dimension, Operator, Port, RowRange, Rule, State

_DIMENSIONS = (
    Dimension("K", "key_dim", 1, 2**20, "key width"),
    Dimension("V", "value_dim", 1, 2**20, "value width"),
    Dimension("G", "decay_dim", 1, 2**20, "decays of a head"),
)
_ROWS_OF_DECAYS = Rule("G == 1 or G == K", "log_decay has {G} numbers for each head; it needs 1, or key width K = {K}")

_QUERY = Port("q", "T", ("B", "T", "H", "K"), "Queries.")
_KEY = Port("k", "T", ("B", "T", "H", "K"), "Keys.")
_VALUE = Port("v", "T", ("B", "T", "H", "V"), "Values.")
_LOG_DECAY = Port(
    "log_decay",
    "T",
    ("B", "T", "H", "G"),
    "Logarithms of the decays, at most 0: one for each row of the state (G = K) or one for the head (G = 1).",
)
_STATE = Port("state", "tensor(float)", ("B", "H", "K", "V"), "Sums of keys times values; zero at the start.")
_LENGTHS = Port(
    "lengths",
    "tensor(int64)",
    ("B",),
    "How many tokens of the row are valid, 0 ... T.",
    RowRange("0", "T", "from 0 to T = {T}"),
)
_OUTPUTS = (
    Port("y", "T", ("B", "T", "H", "V"), "The result."),
    Port("state_out", "tensor(float)", ("B", "H", "K", "V"), "The state after the row's valid tokens."),
)

# Everything in float32. What stands beyond a row's length is replaced: it may hold anything, NaN too. No decay and a
# zero key leave the state as it is.
_VALID = """
  B = Shape <start = 0, end = 1> (q)
  T = Shape <start = 1, end = 2> (q)
  H = Shape <start = 2, end = 3> (q)
  K = Shape <start = 3, end = 4> (q)
  V = Shape <start = 3, end = 4> (v)
  G = Shape <start = 3, end = 4> (log_decay)
  q32 = Cast <to = 1> (q)
  k32 = Cast <to = 1> (k)
  v32 = Cast <to = 1> (v)
  g32 = Cast <to = 1> (log_decay)
  T_scalar = Squeeze (T)
  token = Range (i0, T_scalar, i1)
  length_column = Unsqueeze (lengths, one)
  valid = Less (token, length_column)
  token_axes = Constant <value_ints = [2, 3]> ()
  valid_tokens = Unsqueeze (valid, token_axes)
  k_used = Where (valid_tokens, k32, f0)
  v_used = Where (valid_tokens, v32, f0)
  g_used = Where (valid_tokens, g32, f0)
"""

# Tokens padded to whole chunks of C = min(T, 16): (chunks,B,H,C,width).
_CHUNKS = """
  C_most = Constant <value_ints = [16]> ()
  C = Min (T, C_most)
  C_plus_1 = Add (C, one)
  T_plus_C = Add (T, C)
  T_plus_C_1 = Sub (T_plus_C, one)
  chunks = Div (T_plus_C_1, C)
  T_padded = Mul (chunks, C)
  extra = Sub (T_padded, T)
  pads = Concat <axis = 0> (zero, zero, zero, zero, zero, extra, zero, zero)
  chunked = Concat <axis = 0> (B, chunks, C, H)
  key_chunked = Concat <axis = 0> (chunked, K)
  value_chunked = Concat <axis = 0> (chunked, V)
  decay_chunked = Concat <axis = 0> (chunked, G)
  q_padded = Pad (q32, pads)
  k_padded = Pad (k_used, pads)
  v_padded = Pad (v_used, pads)
  g_padded = Pad (g_used, pads)
  q_split = Reshape <allowzero = 1> (q_padded, key_chunked)
  k_split = Reshape <allowzero = 1> (k_padded, key_chunked)
  v_split = Reshape <allowzero = 1> (v_padded, value_chunked)
  g_split = Reshape <allowzero = 1> (g_padded, decay_chunked)
  q_chunks = Transpose <perm = [1, 0, 3, 2, 4]> (q_split)
  k_chunks = Transpose <perm = [1, 0, 3, 2, 4]> (k_split)
  v_chunks = Transpose <perm = [1, 0, 3, 2, 4]> (v_split)
  g_chunks = Transpose <perm = [1, 0, 3, 2, 4]> (g_split)
"""

# One chunk. `decays` (B,H,t,j,G) is D_tj, a sum over the tokens after j up to t alone, and zero for j > t. The
# attribute is arithmetic: of C + 1 rows, of which the first is that of a token before the chunk, the queries take C,
# from the first on when they read the state before their token, else from the second on.
_SCAN = """
  C_scalar = Squeeze (C)
  place = Range (i0, C_scalar, i1)
  pair_axes = Constant <value_ints = [1, 2]> ()
  own_axes = Constant <value_ints = [0, 2]> ()
  query_place = Unsqueeze (place, pair_axes)
  key_place = Unsqueeze (place, own_axes)
  seen = LessOrEqual (key_place, query_place)
  after = Less (key_place, query_place)
  exclusive_int = Constant <value_int: int = @exclusive> ()
  exclusive_1 = Unsqueeze (exclusive_int, zero)
  read_from = Sub (one, exclusive_1)
  read_to = Sub (C_plus_1, exclusive_1)
  row_before = Constant <value_ints = [0, 0, 1, 0, 0, 0, 0, 0]> ()
  pairs_before = Constant <value_ints = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]> ()
  four = Constant <value_ints = [4]> ()
  state_last, y_chunks = Scan <num_scan_inputs = 4, body = chunk (
      float[s0, s1, s2, s3] s_in, float[q0, q1, q2, q3] q_c, float[k0, k1, k2, k3] k_c, float[v0, v1, v2, v3] v_c,
      float[g0, g1, g2, g3] g_c
    ) => (float[o0, o1, o2, o3] s_out, float[y0, y1, y2, y3] y_c) {
    since_start = CumSum (g_c, i2)
    start_decays = Exp (since_start)
    start_rows = Pad (start_decays, row_before, f1)
    q_decays = Slice (start_rows, read_from, read_to, two)
    q_start = Mul (q_c, q_decays)
    y_before = MatMul (q_start, s_in)
    g_rows = Unsqueeze (g_c, three)
    g_after = Where (after, g_rows, f0)
    since_key = CumSum (g_after, i2)
    all_decays = Exp (since_key)
    decays = Where (seen, all_decays, f0)
    decay_rows = Pad (decays, pairs_before)
    read_decays = Slice (decay_rows, read_from, read_to, two)
    k_rows = Unsqueeze (k_c, two)
    k_read = Mul (read_decays, k_rows)
    q_columns = Unsqueeze (q_c, four)
    score_columns = MatMul (k_read, q_columns)
    scores = Squeeze (score_columns, four)
    y_inside = MatMul (scores, v_c)
    y_c = Add (y_before, y_inside)
    end_rows = Slice (decays, last, end, two)
    end_decays = Squeeze (end_rows, two)
    k_end = Mul (k_c, end_decays)
    k_columns = Transpose <perm = [0, 1, 3, 2]> (k_end)
    s_chunk = MatMul (k_columns, v_c)
    whole_row = Slice (start_decays, last, end, two)
    whole_column = Transpose <perm = [0, 1, 3, 2]> (whole_row)
    s_kept = Mul (s_in, whole_column)
    s_out = Add (s_kept, s_chunk)
  }> (state, q_chunks, k_chunks, v_chunks, g_chunks)
"""

_FROM_CHUNKS = """
  y_split = Transpose <perm = [1, 0, 3, 2, 4]> (y_chunks)
  y_padded_shape = Concat <axis = 0> (B, T_padded, H, V)
  y_padded = Reshape <allowzero = 1> (y_split, y_padded_shape)
  y32 = Slice (y_padded, zero, T, one)
  y = CastLike (y32, q)
  state_shape = Shape (state)
  state_out = Reshape <allowzero = 1> (state_last, state_shape)
"""

DECAYED_LINEAR_ATTENTION = Operator(
    name="DecayedLinearAttention",
    description=(
        "Linear attention whose state decays: each token multiplies the rows of the state by exp(log_decay), adds its "
        "key times its value, and reads the state with its query."
    ),
    inputs=(_QUERY, _KEY, _VALUE, _LOG_DECAY, _STATE, _LENGTHS),
    outputs=_OUTPUTS,
    attributes=(
        Attribute("exclusive", "int", "0: a token reads the state with itself in it; 1: the state before it.", 0, 1),
    ),
    body=_VALID + _CHUNKS + _SCAN + _FROM_CHUNKS,
    dimensions=_DIMENSIONS,
    rules=(_ROWS_OF_DECAYS,),
    states=(State("state", "state_out"),),
    cost=Cost("5*B*T*H*K*V", "5·H·K·V"),
    details={"heads": "H", "key_dim": "K", "value_dim": "V", "decay_dim": "G", "exclusive": "exclusive"},
)

# Token by token. What is written is one product, [b k] times [u; v]: a column of the state for each of the two pairs.
_TOKENS = """
  a32 = Cast <to = 1> (a)
  b32 = Cast <to = 1> (b)
  b_used = Where (valid_tokens, b32, f0)
  a_used = Where (valid_tokens, a32, f0)
  decays = Exp (g_used)
  decay_tokens = Transpose <perm = [1, 0, 2, 3]> (decays)
  q_tokens = Transpose <perm = [1, 0, 2, 3]> (q32)
  a_tokens = Transpose <perm = [1, 0, 2, 3]> (a_used)
  v_tokens = Transpose <perm = [1, 0, 2, 3]> (v_used)
  k_tokens = Transpose <perm = [1, 0, 2, 3]> (k_used)
  b_tokens = Transpose <perm = [1, 0, 2, 3]> (b_used)
  decay_columns = Unsqueeze (decay_tokens, last)
  q_rows = Unsqueeze (q_tokens, three)
  a_rows = Unsqueeze (a_tokens, three)
  v_rows = Unsqueeze (v_tokens, three)
  k_columns = Unsqueeze (k_tokens, last)
  b_columns = Unsqueeze (b_tokens, last)
  write_columns = Concat <axis = 4> (b_columns, k_columns)
  state_last, y_rows = Scan <num_scan_inputs = 5, body = token_step (
      float[s0, s1, s2, s3] s_in, float[e0, e1, e2, e3] e_t, float[a0, a1, a2, a3] a_t, float[w0, w1, w2, w3] w_t,
      float[v0, v1, v2, v3] v_t, float[q0, q1, q2, q3] q_t
    ) => (float[o0, o1, o2, o3] s_out, float[y0, y1, y2, y3] y_t) {
    u_t = MatMul (a_t, s_in)
    written_rows = Concat <axis = 2> (u_t, v_t)
    written = MatMul (w_t, written_rows)
    s_kept = Mul (s_in, e_t)
    s_out = Add (s_kept, written)
    y_t = MatMul (q_t, s_out)
  }> (state, decay_columns, a_rows, write_columns, v_rows, q_rows)
  y_tokens = Squeeze (y_rows, three)
  y32 = Transpose <perm = [1, 0, 2, 3]> (y_tokens)
  y = CastLike (y32, q)
  state_shape = Shape (state)
  state_out = Reshape <allowzero = 1> (state_last, state_shape)
"""

DECAYED_DELTA_RULE = Operator(
    name="DecayedDeltaRule",
    description=(
        "DecayedLinearAttention by a delta rule: besides decaying and adding its key times its value, each token reads "
        "the state with a and adds b times what it read, so that it can take out what the state held for a key."
    ),
    inputs=(
        _QUERY,
        _KEY,
        _VALUE,
        _LOG_DECAY,
        Port("a", "T", ("B", "T", "H", "K"), "What reads the state before the token and its decay."),
        Port("b", "T", ("B", "T", "H", "K"), "Key under which what was read is added."),
        _STATE,
        _LENGTHS,
    ),
    outputs=_OUTPUTS,
    attributes=(),
    body=_VALID + _TOKENS,
    dimensions=_DIMENSIONS,
    rules=(_ROWS_OF_DECAYS,),
    states=(State("state", "state_out"),),
    cost=Cost("9*B*T*H*K*V", "9·H·K·V"),
    details={"heads": "H", "key_dim": "K", "value_dim": "V", "decay_dim": "G"},
    arguments="DecayedLinearAttentionArgs",
)

OPERATORS = (DECAYED_LINEAR_ATTENTION, DECAYED_DELTA_RULE)
