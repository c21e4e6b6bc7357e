"""TokenShift and ShiftMix, and their forms with a ring: each channel group reads the token some steps back.

A shift of 0 reads the token itself. Without a ring a negative shift reads ahead: -2 the token two steps later, and zero
beyond the last one. These operators have no `lengths`: in a row that is padded on the right its last tokens read
padding, as the tokens of any row read what stands there.
"""

from __future__ import annotations

from ..operator import Attribute, Cost, Operator, Port, RowRange, Rule, State

# The shifts as a vector, their number, the longest and the shortest, both counting 0; x in float32.
_SHIFTS = """
  shifts = Constant <value_ints: ints = @shifts> ()
  groups = Shape (shifts)
  shifts_and_0 = Concat <axis = 0> (shifts, zero)
  longest = ReduceMax <keepdims = 1> (shifts_and_0)
  x32 = Cast <to = 1> (x)
  x_shape = Shape (x)
  B = Shape <start = 0, end = 1> (x)
  T = Shape <start = 1, end = 2> (x)
"""

# rows (B, row_count, D), where row `longest` is the first token of x  ->  shifted (B,T,D).
# Rows and groups are viewed as one axis, so that one Gather picks, for each token and group, row t + longest - shift.
_PICK = """
  D = Shape <start = 2, end = 3> (x)
  group_width = Div (D, groups)
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

# `longest` rows of zeros stand before the first token, and as many behind the last one as a shift reads ahead.
SHIFTED = (
    _SHIFTS
    + """
  shortest = ReduceMin <keepdims = 1> (shifts_and_0)
  ahead = Sub (zero, shortest)
  pads = Concat <axis = 0> (zero, longest, zero, zero, ahead, zero)
  rows = Pad (x32, pads)
  reach = Add (longest, ahead)
  row_count = Add (reach, T)
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
  row_count = Add (longest, T)
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

X = Port("x", "T", ("B", "T", "D"), "Tokens.")
Y = Port("y", "T", ("B", "T", "D"), "The result.")
RING = Port(
    "ring", "T", ("B", "R", "D"), "The tokens before x, each at slot = absolute position mod R; R >= max(shifts, 1)."
)
RING_OUT = Port("ring_out", "T", ("B", "R", "D"), "The ring after the row's valid tokens.")
POSITION = Port(
    "position",
    "tensor(int64)",
    ("B",),
    "How many tokens of the row came before x.",
    RowRange("0", "9223372036854775807 - T", "from 0 to 2^63 - 1 - T", where="lengths"),
)
LENGTHS = Port(
    "lengths",
    "tensor(int64)",
    ("B",),
    "How many tokens of the row are valid, 0 ... T.",
    RowRange("0", "T", "from 0 to T = {T}"),
)
SHIFTS = Attribute(
    "shifts", "ints", "The shift of each equal group of channels, first channels first; below 0 it reads ahead."
)
PAST_SHIFTS = Attribute(
    "shifts", "ints", "The shift, >= 0, of each equal group of channels, first channels first.", least=0
)

_GROUPS = Rule("D % len(shifts) == 0", "width D = {D} does not split into {len(shifts)} equal groups, one per shift")
_REACH = Rule("R >= max(shifts)", "the ring holds R = {R} rows, fewer than the largest shift {max(shifts)}")
_RING_STATE = State("ring", "ring_out", rollback="slots")
_DETAILS = {"shifts": "shifts", "width": "D"}
# Below the smallest shift nothing is mixed; from the largest on everything is.
_LENGTHS = ("max(1, min(shifts) - 1)", "max(max(shifts), -min(shifts))", "max(max(shifts), -min(shifts)) + 1")
# Kernels update the ring in place: each new token reads and writes one row per channel.
_RING_BYTES = "4*B*T*D*T_bytes + 16*B"

TOKEN_SHIFT = Operator(
    name="TokenShift",
    description="y[b,t,c] = x[b,t-s(c),c], zero outside of the T tokens; s(c) is the shift of c's channel group.",
    inputs=(X,),
    outputs=(Y,),
    attributes=(SHIFTS,),
    body=SHIFTED + _RESULT,
    rules=(_GROUPS,),
    cost=Cost("0", "0"),
    details=_DETAILS,
    lengths=_LENGTHS,
    kernel="shift_mix",
)

TOKEN_SHIFT_CACHED = Operator(
    name="TokenShiftCached",
    description="TokenShift of a sequence that arrives in pieces: a ring holds the last tokens of each row.",
    inputs=(X, RING, POSITION, LENGTHS),
    outputs=(Y, RING_OUT),
    attributes=(PAST_SHIFTS,),
    body=SHIFTED_CACHED + _RESULT,
    rules=(_GROUPS, _REACH),
    states=(_RING_STATE,),
    cost=Cost("0", "0", _RING_BYTES),
    details=_DETAILS | {"ring": "R"},
    kernel="shift_mix",
)

_MIX = """
  alpha32 = Cast <to = 1> (alpha)
  beta32 = Cast <to = 1> (beta)
  own = Mul (x32, alpha32)
  other = Mul (shifted, beta32)
  mixed = Add (own, other)
  y = CastLike (mixed, x)
"""

ALPHA = Port("alpha", "T", ("D",), "Weight of the token itself.")
BETA = Port("beta", "T", ("D",), "Weight of the token s(c) steps back.")

SHIFT_MIX = Operator(
    name="ShiftMix",
    description="y[b,t,c] = alpha[c] x[b,t,c] + beta[c] x[b,t-s(c),c], zero outside of the T tokens.",
    inputs=(X, ALPHA, BETA),
    outputs=(Y,),
    attributes=(SHIFTS,),
    body=SHIFTED + _MIX,
    rules=(_GROUPS,),
    cost=Cost("3*B*T*D", "3D"),
    details=_DETAILS,
    lengths=_LENGTHS,
)

SHIFT_MIX_CACHED = Operator(
    name="ShiftMixCached",
    description="ShiftMix of a sequence that arrives in pieces: a ring holds the last tokens of each row.",
    inputs=(X, ALPHA, BETA, RING, POSITION, LENGTHS),
    outputs=(Y, RING_OUT),
    attributes=(PAST_SHIFTS,),
    body=SHIFTED_CACHED + _MIX,
    rules=(_GROUPS, _REACH),
    states=(_RING_STATE,),
    cost=Cost("3*B*T*D", "3D", f"{_RING_BYTES} + 2*D*T_bytes"),
    details=_DETAILS | {"ring": "R"},
    kernel="shift_mix",
)

OPERATORS = (TOKEN_SHIFT, TOKEN_SHIFT_CACHED, SHIFT_MIX, SHIFT_MIX_CACHED)
