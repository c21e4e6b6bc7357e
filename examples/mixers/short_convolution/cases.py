"""Calls of GatedShortConvolution for tests and reports."""

from __future__ import annotations

from hsm_operators import find
from hsm_operators.case import Case

_CONVOLUTION = find("acme", "GatedShortConvolution")
assert _CONVOLUTION is not None

TYPICAL = (
    Case(_CONVOLUTION, {"B": 1, "T": 2048, "D": 2048, "K": 3}),
    Case(_CONVOLUTION, {"B": 8, "T": 1, "D": 2048, "K": 3}),
)
SMALL = (Case(_CONVOLUTION, {"B": 2, "T": 6, "D": 24, "K": 3}),)
