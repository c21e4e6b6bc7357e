"""CausalTaylorShift: TaylorShift in which each token sees itself and the tokens before it (our extension).

Because the sums over keys are plain additions, the past of any length is one state of fixed size. The body runs over
chunks of at most 128 tokens: quadratic inside a chunk, the state between chunks.
"""

from __future__ import annotations

from ..operator import Cost, Operator, Port, RowRange, Rule, State
from ..taylor_shift.spec import (
    ATTENDED,
    EFFICIENT_FLOPS,
    EFFICIENT_FORMULA,
    KEY,
    NORMALISED,
    NORMALIZE,
    PACKING,
    QUERY,
    ROW_FLOPS,
    ROW_FORMULA,
    TEMPERATURE,
    VALID_KEYS,
    VALUE,
)

# Tokens padded to whole chunks of C = min(T, 128), chunk by chunk and transposed: (chunks,B,H,d,C), values with e.
_CHUNKS = """
  C_most = Constant <value_ints = [128]> ()
  C = Min (T, C_most)
  T_plus_C = Add (T, C)
  T_plus_C_1 = Sub (T_plus_C, one)
  chunks = Div (T_plus_C_1, C)
  T_padded = Mul (chunks, C)
  extra = Sub (T_padded, T)
  pads = Concat <axis = 0> (zero, zero, zero, zero, zero, extra, zero, zero)
  chunked = Concat <axis = 0> (B, chunks, C, H, d)
  values_chunked = Concat <axis = 0> (B, chunks, C, H, e)
  q_padded = Pad (qn, pads)
  k_padded = Pad (k_used, pads)
  v_padded = Pad (v_used, pads)
  q_chunked = Reshape <allowzero = 1> (q_padded, chunked)
  k_chunked = Reshape <allowzero = 1> (k_padded, chunked)
  v_chunked = Reshape <allowzero = 1> (v_padded, values_chunked)
  q_chunks = Transpose <perm = [1, 0, 3, 4, 2]> (q_chunked)
  k_chunks = Transpose <perm = [1, 0, 3, 4, 2]> (k_chunked)
  v_chunks = Transpose <perm = [1, 0, 3, 4, 2]> (v_chunked)
  valid_pads = Concat <axis = 0> (zero, zero, zero, extra)
  valid_padded = Pad (valid32, valid_pads)
  valid_shape = Concat <axis = 0> (B, chunks, one, one, C)
  valid_chunked = Reshape <allowzero = 1> (valid_padded, valid_shape)
  valid_heads_shape = Concat <axis = 0> (B, chunks, H, one, C)
  valid_heads = Expand (valid_chunked, valid_heads_shape)
  valid_chunks = Transpose <perm = [1, 0, 2, 3, 4]> (valid_heads)
"""

# The two carried states as one, (B,H,F,e+1): TensorRT's compiler does not take two fed like these.
_JOINED = """
  norm_column = Unsqueeze (norm, last)
  joined = Concat <axis = 3> (state, norm_column)
"""

# One chunk. Features are [1; k; square]. Tokens that are not valid have zero keys and values, and 0 in place of the
# leading 1 for the state, so they add nothing to it; inside the chunk only tokens after them see them.
_SCAN = """
  row_shape = Concat <axis = 0> (B, H, one, C)
  ones = Expand (f1, row_shape)
  C_scalar = Squeeze (C)
  place = Range (i0, C_scalar, i1)
  key_place = Unsqueeze (place, one)
  query_place = Unsqueeze (place, zero)
  seen = LessOrEqual (key_place, query_place)
  joined_out, y_chunks = Scan <num_scan_inputs = 4, body = chunk (
      float[s0, s1, s2, s3] s_in, float[q0, q1, q2, q3] qT, float[k0, k1, k2, k3] kT, float[v0, v1, v2, v3] vT,
      float[n0, n1, n2, n3] k_ones
    ) => (float[o0, o1, o2, o3] s_out, float[y0, y1, y2, y3] y_chunk) {
    v1T = Concat <axis = 2> (vT, ones)
    q_first = Gather <axis = 2> (qT, first)
    q_second = Gather <axis = 2> (qT, second)
    q_products = Mul (q_first, q_second)
    q_square = Mul (q_products, weight)
    q_features = Concat <axis = 2> (ones, qT, q_square)
    s_inT = Transpose <perm = [0, 1, 3, 2]> (s_in)
    z_before = MatMul (s_inT, q_features)
    k_rows = Transpose <perm = [0, 1, 3, 2]> (kT)
    t = MatMul (k_rows, qT)
    t_1 = Add (t, f1)
    t_1_squared = Mul (t_1, t_1)
    twice = Add (t_1_squared, f1)
    polynomial = Mul (twice, half)
    attention = Where (seen, polynomial, f0)
    z_inside = MatMul (v1T, attention)
    z = Add (z_before, z_inside)
    numerator = Slice (z, zero, last, two)
    denominator = Slice (z, last, end, two)
    y_chunk = Div (numerator, denominator)
    k_first = Gather <axis = 2> (kT, first)
    k_second = Gather <axis = 2> (kT, second)
    k_square = Mul (k_first, k_second)
    k_features = Concat <axis = 2> (k_ones, kT, k_square)
    v1 = Transpose <perm = [0, 1, 3, 2]> (v1T)
    s_chunk = MatMul (k_features, v1)
    s_out = Add (s_in, s_chunk)
  }> (joined, q_chunks, k_chunks, v_chunks, valid_chunks)
"""

# All chunks at once, for runtimes that know no Scan: what stood before a chunk is a running sum over the chunks.
_AT_ONCE = """
  C_scalar = Squeeze (C)
  place = Range (i0, C_scalar, i1)
  key_place = Unsqueeze (place, one)
  query_place = Unsqueeze (place, zero)
  seen = LessOrEqual (key_place, query_place)
  row_shape = Concat <axis = 0> (chunks, B, H, one, C)
  ones = Expand (f1, row_shape)
  v1T = Concat <axis = 3> (v_chunks, ones)
  q_first = Gather <axis = 3> (q_chunks, first)
  q_second = Gather <axis = 3> (q_chunks, second)
  q_products = Mul (q_first, q_second)
  q_square = Mul (q_products, weight)
  q_features = Concat <axis = 3> (ones, q_chunks, q_square)
  k_first = Gather <axis = 3> (k_chunks, first)
  k_second = Gather <axis = 3> (k_chunks, second)
  k_square = Mul (k_first, k_second)
  k_features = Concat <axis = 3> (valid_chunks, k_chunks, k_square)
  v1 = Transpose <perm = [0, 1, 2, 4, 3]> (v1T)
  s_chunks = MatMul (k_features, v1)
  s_sums = CumSum <exclusive = 1> (s_chunks, i0)
  s_before = Add (s_sums, joined)
  s_beforeT = Transpose <perm = [0, 1, 2, 4, 3]> (s_before)
  z_before = MatMul (s_beforeT, q_features)
  k_rows = Transpose <perm = [0, 1, 2, 4, 3]> (k_chunks)
  t = MatMul (k_rows, q_chunks)
  t_1 = Add (t, f1)
  t_1_squared = Mul (t_1, t_1)
  twice = Add (t_1_squared, f1)
  polynomial = Mul (twice, half)
  attention = Where (seen, polynomial, f0)
  z_inside = MatMul (v1T, attention)
  z = Add (z_before, z_inside)
  numerator = Slice (z, zero, last, three)
  denominator = Slice (z, last, end, three)
  y_chunks = Div (numerator, denominator)
  s_all = ReduceSum <keepdims = 0> (s_chunks, zero)
  joined_out = Add (joined, s_all)
"""

_OUTPUTS = """
  y_chunked = Transpose <perm = [1, 0, 4, 2, 3]> (y_chunks)
  y_padded_shape = Concat <axis = 0> (B, T_padded, H, e)
  y_padded = Reshape <allowzero = 1> (y_chunked, y_padded_shape)
  y_tokens = Slice (y_padded, zero, T, one)
  y32 = Reshape (y_tokens, v_shape)
  y = CastLike (y32, q)
  state_shape = Shape (state)
  state_new = Slice (joined_out, zero, last, three)
  state_out = Reshape (state_new, state_shape)
  norm_shape = Shape (norm)
  norm_new = Slice (joined_out, last, end, three)
  norm_out = Reshape (norm_new, norm_shape)
"""

CAUSAL_TAYLOR_SHIFT = Operator(
    name="CausalTaylorShift",
    description="TaylorShift of each token over itself and the tokens before it, with the past as a state.",
    inputs=(
        QUERY,
        KEY,
        VALUE,
        TEMPERATURE,
        Port("state", "tensor(float)", ("B", "H", "F", "e"), "Sums of key features times values; zero at the start."),
        Port("norm", "tensor(float)", ("B", "H", "F"), "Sums of key features; zero at the start."),
        Port(
            "lengths",
            "tensor(int64)",
            ("B",),
            "How many tokens of the row are valid, 0 ... T.",
            RowRange("0", "T", "from 0 to T = {T}"),
        ),
    ),
    outputs=(
        ATTENDED,
        Port("state_out", "tensor(float)", ("B", "H", "F", "e"), "The state after the row's valid tokens."),
        Port("norm_out", "tensor(float)", ("B", "H", "F"), "The sums of key features after the row's valid tokens."),
    ),
    attributes=(NORMALIZE,),
    body=NORMALISED + PACKING + VALID_KEYS + _CHUNKS + _JOINED + _SCAN + _OUTPUTS,
    loop_free_body=NORMALISED + PACKING + VALID_KEYS + _CHUNKS + _JOINED + _AT_ONCE + _OUTPUTS,
    rules=(
        Rule(
            "F == 1 + d + d*(d+1)//2",
            "state has F = {F} features, but head width d = {d} needs 1 + d + d(d+1)/2 = {1 + d + d*(d+1)//2}",
        ),
    ),
    states=(State("state", "state_out"), State("norm", "norm_out")),
    cost=Cost(f"B*H*({EFFICIENT_FLOPS} + {ROW_FLOPS})", f"H·({EFFICIENT_FORMULA}) + {ROW_FORMULA}"),
    details={"heads": "H", "head_dim": "d", "value_dim": "e", "normalize": "normalize"},
    lengths=("128", "129"),  # one chunk of the body, and one token more
)

OPERATORS = (CAUSAL_TAYLOR_SHIFT,)
