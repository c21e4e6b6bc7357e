"""ShiftMix and ShiftMixCached: a weighted sum of each token and the token a fixed number of steps back."""

from __future__ import annotations

from .operator import Operator, Value
from .token_shift import LENGTHS, POSITION, RING, RING_OUT, SHIFTED, SHIFTED_CACHED, SHIFTS, X, Y

_MIX = """
  alpha32 = Cast <to = 1> (alpha)
  beta32 = Cast <to = 1> (beta)
  own = Mul (x32, alpha32)
  other = Mul (shifted, beta32)
  mixed = Add (own, other)
  y = CastLike (mixed, x)
"""

ALPHA = Value("alpha", "T", ("D",), "Weight of the token itself.")
BETA = Value("beta", "T", ("D",), "Weight of the token s(c) steps back.")

SHIFT_MIX = Operator(
    name="ShiftMix",
    description="y[b,t,c] = alpha[c] x[b,t,c] + beta[c] x[b,t-s(c),c], zero before the first token.",
    inputs=(X, ALPHA, BETA),
    outputs=(Y,),
    attributes=(SHIFTS,),
    body=SHIFTED + _MIX,
)

SHIFT_MIX_CACHED = Operator(
    name="ShiftMixCached",
    description="ShiftMix of a sequence that arrives in pieces: a ring holds the last tokens of each row.",
    inputs=(X, ALPHA, BETA, RING, POSITION, LENGTHS),
    outputs=(Y, RING_OUT),
    attributes=(SHIFTS,),
    body=SHIFTED_CACHED + _MIX,
)
