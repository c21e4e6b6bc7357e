"""Calls of RGLRU for tests and reports."""

from __future__ import annotations

from hsm_operators import find
from hsm_operators.case import Case

_RGLRU = find("acme", "RGLRU")
assert _RGLRU is not None
# Rates at which the state forgets as in trained models: a from 0.9 to 0.999 where the gate is open.
_RATE = {"rate": (-9.0, -4.3)}

TYPICAL = (Case(_RGLRU, {"B": 1, "T": 2048, "D": 1024}, ranges=_RATE), Case(_RGLRU, {"B": 8, "T": 1, "D": 1024}))
SMALL = (Case(_RGLRU, {"B": 2, "T": 6, "D": 21}, ranges=_RATE),)
