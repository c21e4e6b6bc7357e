"""Calls of the TaylorShift operators for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import OPERATORS, TAYLOR_SHIFT, TAYLOR_SHIFT_MASKED

_NORMS = {"normalize": 1, "output_norm": 1}


def _sizes(batch: int, length: int, heads: int, width: int) -> dict[str, int]:
    return {"B": batch, "T": length, "H": heads, "d": width, "e": width}


TYPICAL = (
    Case(TAYLOR_SHIFT, _sizes(1, 128, 8, 64), _NORMS),
    Case(TAYLOR_SHIFT, _sizes(1, 8192, 8, 16), _NORMS),
    Case(TAYLOR_SHIFT, _sizes(1, 8192, 8, 32), _NORMS),
    Case(TAYLOR_SHIFT, _sizes(1, 8192, 8, 64), _NORMS),
    Case(TAYLOR_SHIFT, _sizes(1, 8192, 4, 128), _NORMS),
    Case(TAYLOR_SHIFT, _sizes(1, 2048, 2, 256), _NORMS),
    Case(TAYLOR_SHIFT_MASKED, _sizes(8, 2048, 8, 32), _NORMS),
)

SMALL = tuple(Case(operator, {"B": 2, "T": 6, "H": 2, "d": 8, "e": 5}, _NORMS) for operator in OPERATORS)
