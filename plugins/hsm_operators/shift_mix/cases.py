"""Calls of the shift operators for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import OPERATORS, SHIFT_MIX, SHIFT_MIX_CACHED, TOKEN_SHIFT, TOKEN_SHIFT_CACHED

_SHIFTS = {"shifts": (1, 2, 4, 8)}
_PREFILL, _STEP = {"B": 8, "T": 2048, "D": 1024}, {"B": 8, "T": 1, "D": 1024}
_RING = {"R": 8}

TYPICAL = (
    Case(TOKEN_SHIFT, _PREFILL, _SHIFTS),
    Case(SHIFT_MIX, _PREFILL, _SHIFTS),
    Case(TOKEN_SHIFT_CACHED, _STEP | _RING, _SHIFTS),
    Case(SHIFT_MIX_CACHED, _PREFILL | _RING, _SHIFTS),
    Case(SHIFT_MIX_CACHED, _STEP | _RING, _SHIFTS),
)

_SMALL = {"B": 2, "T": 6, "D": 12, "R": 7}
SMALL = tuple(
    Case(operator, {name: _SMALL[name] for name in operator.sizes}, {"shifts": (1, 5, 2)}) for operator in OPERATORS
)
