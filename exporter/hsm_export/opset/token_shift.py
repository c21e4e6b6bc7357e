"""TokenShift and TokenShiftCached: each channel group reads the token a fixed number of steps back."""

from __future__ import annotations

from .operator import Attribute, Operator, Value

# The shifts as a vector, their number, and the longest; x in float32.
_SHIFTS = """
  shifts = Constant <value_ints: ints = @shifts> ()
  groups = Shape (shifts)
  longest = ReduceMax <keepdims = 1> (shifts)
  x32 = Cast <to = 1> (x)
  x_shape = Shape (x)
  B = Shape <start = 0, end = 1> (x)
  T = Shape <start = 1, end = 2> (x)
"""

# rows (B, longest + T, D), where row `longest` is the first token of x  ->  shifted (B,T,D).
# Rows and groups are viewed as one axis, so that one Gather picks, for each token and group, row t + longest - shift.
_PICK = """
  D = Shape <start = 2, end = 3> (x)
  group_width = Div (D, groups)
  row_count = Add (longest, T)
  cell_count = Mul (row_count, groups)
  cells_shape = Concat <axis = 0> (B, cell_count, group_width)
  cells = Reshape (rows, cells_shape)
  T_scalar = Squeeze (T)
  token = Range (i0, T_scalar, i1)
  token_column = Unsqueeze (token, one)
  offset = Sub (longest, shifts)
  row = Add (token_column, offset)
  row_start = Mul (row, groups)
  groups_scalar = Squeeze (groups)
  group = Range (i0, groups_scalar, i1)
  cell = Add (row_start, group)
  cell_list = Reshape (cell, last)
  picked = Gather <axis = 1> (cells, cell_list)
  shifted = Reshape (picked, x_shape)
"""

# `longest` rows of zeros stand before the first token.
SHIFTED = (
    _SHIFTS
    + """
  pads = Concat <axis = 0> (zero, longest, zero, zero, zero, zero)
  rows = Pad (x32, pads)
"""
    + _PICK
)

# The ring holds the R tokens before x at slot = absolute position mod R. Put in order it is `before` (B,R,D), whose
# row j has the absolute position `position` - R + j; rows of negative position read as zero, whatever the ring holds.
_BEFORE = """
  ring32 = Cast <to = 1> (ring)
  ring_shape = Shape (ring)
  R = Shape <start = 1, end = 2> (ring)
  width = Shape <start = 2, end = 3> (ring)
  R_scalar = Squeeze (R)
  slot = Range (i0, R_scalar, i1)
  B_scalar = Squeeze (B)
  batch = Range (i0, B_scalar, i1)
  batch_column = Unsqueeze (batch, one)
  position_column = Unsqueeze (position, one)
  row_position = Add (position_column, slot)
  row_slot = Mod (row_position, R)
  ring_start = Mul (batch_column, R)
  ring_index = Add (ring_start, row_slot)
  flat = Concat <axis = 0> (last, width)
  ring_rows = Reshape (ring32, flat)
  kept = Gather <axis = 0> (ring_rows, ring_index)
  before_start = Less (row_position, R)
  before_start_column = Unsqueeze (before_start, two)
  before = Where (before_start_column, f0, kept)
  history = Concat <axis = 1> (before, x32)
  spare = Sub (R, longest)
  rows = Slice (history, spare, end, one)
"""

# The new ring holds the R tokens before position + length: rows length ... length + R - 1 of (kept, x).
# What stands at a slot is found by counting from the oldest of them, which is at slot (position + length) mod R.
_RING_OUT = """
  length_column = Unsqueeze (lengths, one)
  next_position = Add (position_column, length_column)
  oldest_slot = Mod (next_position, R)
  slot_ahead = Add (slot, R)
  distance = Sub (slot_ahead, oldest_slot)
  age = Mod (distance, R)
  source = Add (length_column, age)
  both_count = Add (R, T)
  both_start = Mul (batch_column, both_count)
  both_index = Add (both_start, source)
  both = Concat <axis = 1> (kept, x32)
  both_rows = Reshape (both, flat)
  new_rows = Gather <axis = 0> (both_rows, both_index)
  new_ring = Reshape (new_rows, ring_shape)
  ring_out = CastLike (new_ring, ring)
"""

SHIFTED_CACHED = _SHIFTS + _BEFORE + _PICK + _RING_OUT

_RESULT = """
  y = CastLike (shifted, x)
"""

X = Value("x", "T", ("B", "T", "D"), "Tokens.")
Y = Value("y", "T", ("B", "T", "D"), "The result.")
RING = Value(
    "ring", "T", ("B", "R", "D"), "The tokens before x, each at slot = absolute position mod R; R >= max(shifts)."
)
RING_OUT = Value("ring_out", "T", ("B", "R", "D"), "The ring after the row's valid tokens.")
POSITION = Value("position", "tensor(int64)", ("B",), "How many tokens of the row came before x.")
LENGTHS = Value("lengths", "tensor(int64)", ("B",), "How many tokens of the row are valid, 0 ... T.")
SHIFTS = Attribute("shifts", "ints", "The shift, >= 1, of each equal group of channels, first channels first.")

TOKEN_SHIFT = Operator(
    name="TokenShift",
    description="y[b,t,c] = x[b,t-s(c),c], zero before the first token; s(c) is the shift of c's channel group.",
    inputs=(X,),
    outputs=(Y,),
    attributes=(SHIFTS,),
    body=SHIFTED + _RESULT,
)

TOKEN_SHIFT_CACHED = Operator(
    name="TokenShiftCached",
    description="TokenShift of a sequence that arrives in pieces: a ring holds the last tokens of each row.",
    inputs=(X, RING, POSITION, LENGTHS),
    outputs=(Y, RING_OUT),
    attributes=(SHIFTS,),
    body=SHIFTED_CACHED + _RESULT,
)
