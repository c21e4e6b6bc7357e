"""TaylorShift and TaylorShiftMasked: attention whose exponential is 1 + x + x^2/2 (arXiv:2403.02920).

The bodies are the paper's efficient form. Its features are those of the symmetric square: instead of all d*d products
k_i k_j they hold the d(d+1)/2 different ones, row delta*d + i being k_i k_((i+delta) mod d). Each stands for two equal
terms of the square except where delta = 0, so the factor 1/2 of the Taylor series remains on those rows only.

Values may have another width e than queries and keys: features cost d*d, so narrow keys beside wide values are cheap.
"""

from __future__ import annotations

from ..operator import Attribute, Cost, Operator, Port, RowRange

# ReduceL2 is avoided, as MNN ignores axes that are an input.
# q, k, v, temperature in float32 -> qn, kn (B,T,H,d) and v32 (B,T,H,e). The attribute is arithmetic: with n = 1 the
# scale is temperature / |q|, with n = 0 it is 1.
NORMALISED = """
  q32 = Cast <to = 1> (q)
  k32 = Cast <to = 1> (k)
  v32 = Cast <to = 1> (v)
  temperature32 = Cast <to = 1> (temperature)
  temperature_column = Unsqueeze (temperature32, last)
  normalize_int = Constant <value_int: int = @normalize> ()
  n = Cast <to = 1> (normalize_int)
  not_n = Sub (f1, n)
  epsilon = Constant <value_float = 1e-12> ()
  q_squares = Mul (q32, q32)
  q_norm_squared = ReduceSum <keepdims = 1> (q_squares, last)
  q_norm = Sqrt (q_norm_squared)
  q_norm_safe = Max (q_norm, epsilon)
  n_temperature = Mul (temperature_column, n)
  q_scale_if = Div (n_temperature, q_norm_safe)
  q_scale = Add (q_scale_if, not_n)
  qn = Mul (q32, q_scale)
  k_squares = Mul (k32, k32)
  k_norm_squared = ReduceSum <keepdims = 1> (k_squares, last)
  k_norm = Sqrt (k_norm_squared)
  k_norm_safe = Max (k_norm, epsilon)
  k_scale_if = Div (n, k_norm_safe)
  k_scale = Add (k_scale_if, not_n)
  kn = Mul (k32, k_scale)
  v_shape = Shape (v)
  B = Shape <start = 0, end = 1> (q)
  T = Shape <start = 1, end = 2> (q)
  H = Shape <start = 2, end = 3> (q)
  d = Shape <start = 3, end = 4> (q)
  e = Shape <start = 3, end = 4> (v)
"""

# Row r of the symmetric square is the product of channels first[r] and second[r], with weight (rows, 1) for queries.
PACKING = """
  d_scalar = Squeeze (d)
  d_plus_1 = Add (d_scalar, i1)
  d_d_plus_1 = Mul (d_scalar, d_plus_1)
  square_rows = Div (d_d_plus_1, i2)
  square_row = Range (i0, square_rows, i1)
  first = Mod (square_row, d_scalar)
  delta = Div (square_row, d_scalar)
  first_plus_delta = Add (first, delta)
  second = Mod (first_plus_delta, d_scalar)
  on_diagonal = Equal (delta, i0)
  weight_row = Where (on_diagonal, half, f1)
  weight = Unsqueeze (weight_row, one)
"""

# Which keys count, and how many.
_ALL_KEYS = """
  k_used = Identity (kn)
  v_used = Identity (v32)
  ones_shape = Concat <axis = 0> (B, H, T, one)
  ones = Expand (f1, ones_shape)
  count = Cast <to = 1> (T)
"""
# Keys and values beyond a row's length are replaced, not multiplied by zero: they may hold anything.
VALID_KEYS = """
  T_scalar = Squeeze (T)
  token = Range (i0, T_scalar, i1)
  length_column = Unsqueeze (lengths, one)
  valid = Less (token, length_column)
  valid_tokens_axes = Constant <value_ints = [2, 3]> ()
  valid_tokens = Unsqueeze (valid, valid_tokens_axes)
  k_used = Where (valid_tokens, kn, f0)
  v_used = Where (valid_tokens, v32, f0)
  valid32 = Cast <to = 1> (valid)
"""
_VALID_COUNT = """
  valid_rows_axes = Constant <value_ints = [1, 3]> ()
  valid_rows = Unsqueeze (valid32, valid_rows_axes)
  ones_shape = Concat <axis = 0> (B, H, T, one)
  ones = Expand (valid_rows, ones_shape)
  length_axes = Constant <value_ints = [1, 2, 3]> ()
  length_all = Unsqueeze (lengths, length_axes)
  count = Cast <to = 1> (length_all)
"""

# Sums over keys of features times [v | 1], then the queries' features times the sums. Features are (B,H,rows,T), so
# that Gather copies rows of T contiguous numbers.
_EFFICIENT = """
  v_heads = Transpose <perm = [0, 2, 1, 3]> (v_used)
  v1 = Concat <axis = 3> (v_heads, ones)
  kT = Transpose <perm = [0, 2, 3, 1]> (k_used)
  k_first = Gather <axis = 2> (kT, first)
  k_second = Gather <axis = 2> (kT, second)
  k_square = Mul (k_first, k_second)
  sum2 = MatMul (k_square, v1)
  sum1 = MatMul (kT, v1)
  sum0 = ReduceSum <keepdims = 1> (v1, two)
  qT = Transpose <perm = [0, 2, 3, 1]> (qn)
  q_first = Gather <axis = 2> (qT, first)
  q_second = Gather <axis = 2> (qT, second)
  q_square = Mul (q_first, q_second)
  sum2_weighted = Mul (sum2, weight)
  sum2T = Transpose <perm = [0, 1, 3, 2]> (sum2_weighted)
  sum1T = Transpose <perm = [0, 1, 3, 2]> (sum1)
  sum0T = Transpose <perm = [0, 1, 3, 2]> (sum0)
  z2 = MatMul (sum2T, q_square)
  z1 = MatMul (sum1T, qT)
  z12 = Add (z2, z1)
  z = Add (z12, sum0T)
  numerator = Slice (z, zero, last, two)
  denominator = Slice (z, last, end, two)
  ratio = Div (numerator, denominator)
"""

# Multiply by sqrt(count / d) when the attribute is 1, by 1 when it is 0; back to (B,T,H,e).
_OUTPUT = """
  output_norm_int = Constant <value_int: int = @output_norm> ()
  o = Cast <to = 1> (output_norm_int)
  not_o = Sub (f1, o)
  d32 = Cast <to = 1> (d)
  count_per_d = Div (count, d32)
  root = Sqrt (count_per_d)
  o_root = Mul (root, o)
  output_scale = Add (o_root, not_o)
  scaled = Mul (ratio, output_scale)
  y_tokens = Transpose <perm = [0, 3, 1, 2]> (scaled)
  y32 = Reshape (y_tokens, v_shape)
  y = CastLike (y32, q)
"""

QUERY = Port("q", "T", ("B", "T", "H", "d"), "Queries.")
KEY = Port("k", "T", ("B", "T", "H", "d"), "Keys.")
VALUE = Port("v", "T", ("B", "T", "H", "e"), "Values.")
TEMPERATURE = Port("temperature", "T", ("H",), "Factor on the normalised queries; ignored when normalize is 0.")
ATTENDED = Port("y", "T", ("B", "T", "H", "e"), "The result.")
NORMALIZE = Attribute(
    "normalize", "int", "1: q and k are divided by their Euclidean norms; 0: they are used as given.", 0, 1
)
_LENGTHS = Port(
    "lengths",
    "tensor(int64)",
    ("B",),
    "How many tokens of the row are valid, 1 ... T.",
    RowRange("1", "T", "from 1 to T = {T}"),
)
_OUTPUT_NORM = Attribute(
    "output_norm", "int", "1: the result is multiplied by sqrt(N / d), N = valid tokens; 0: not.", 0, 1
)

# The cheaper of the two forms, for each head: the direct one on pairs of tokens, the efficient one on F features.
EFFICIENT_FLOPS = "T*(4*(1 + d + d*(d+1)//2)*(e+1) + d*(d+1))"
EFFICIENT_FORMULA = "4F(e+1) + d(d+1)"
# Norms of queries and keys, and the division.
ROW_FLOPS = "T*(6*d + 2*e)"
ROW_FORMULA = "H(6d + 2e), F = 1+d+d(d+1)/2"
_COST = Cost(
    f"B*H*(min(2*T*T*(d+e+2), {EFFICIENT_FLOPS}) + {ROW_FLOPS})",
    f"H·min(2T(d+e+2), {EFFICIENT_FORMULA}) + {ROW_FORMULA}",
)
_DETAILS = {"heads": "H", "head_dim": "d", "value_dim": "e", "normalize": "normalize", "output_norm": "output_norm"}
# Around the crossover N0 = (d² + d + 1) 2e/(d + e), from which on the efficient form is the cheaper one.
_CROSSOVER = "(d*d + d + 1)*2*e//(d + e)"
_LENGTHS_AROUND_CROSSOVER = (f"{_CROSSOVER} - 1", _CROSSOVER, f"{_CROSSOVER} + 1")
_FORMS = {"form": ("efficient", "direct")}

TAYLOR_SHIFT = Operator(
    name="TaylorShift",
    description="Attention with 1 + x + x^2/2 in place of softmax's exponential, over all tokens of the row.",
    inputs=(QUERY, KEY, VALUE, TEMPERATURE),
    outputs=(ATTENDED,),
    attributes=(NORMALIZE, _OUTPUT_NORM),
    body=NORMALISED + PACKING + _ALL_KEYS + _EFFICIENT + _OUTPUT,
    cost=_COST,
    details=_DETAILS,
    lengths=_LENGTHS_AROUND_CROSSOVER,
    evaluations=_FORMS,
)

TAYLOR_SHIFT_MASKED = Operator(
    name="TaylorShiftMasked",
    description="TaylorShift over the first `lengths` tokens of each row; what stands after them is never read.",
    inputs=(QUERY, KEY, VALUE, TEMPERATURE, _LENGTHS),
    outputs=(ATTENDED,),
    attributes=(NORMALIZE, _OUTPUT_NORM),
    body=NORMALISED + PACKING + VALID_KEYS + _VALID_COUNT + _EFFICIENT + _OUTPUT,
    cost=_COST,
    details=_DETAILS,
    lengths=_LENGTHS_AROUND_CROSSOVER,
    evaluations=_FORMS,
    kernel="taylor_shift",
)

OPERATORS = (TAYLOR_SHIFT, TAYLOR_SHIFT_MASKED)
