"""Calls of CausalTaylorShift for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import CAUSAL_TAYLOR_SHIFT

_NORM = {"normalize": 1}


def _typical(batch: int, length: int, heads: int, width: int) -> Case:
    return Case(CAUSAL_TAYLOR_SHIFT, {"B": batch, "T": length, "H": heads, "d": width, "e": width}, _NORM)


TYPICAL = (_typical(1, 2048, 8, 32), _typical(1, 2048, 8, 64), _typical(8, 1, 8, 32), _typical(1, 256, 2, 256))

# A history of four keys at the origin keeps the denominators away from zero.
SMALL = (
    Case(CAUSAL_TAYLOR_SHIFT, {"B": 2, "T": 6, "H": 2, "d": 8, "e": 5}, _NORM, starts={"norm": 4.0}),
)  # fmt: skip
