"""Calls of the expert products for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import OPERATORS

_LAYER = {"D": 512, "H": 8, "E": 8, "f": 64}

TYPICAL = tuple(
    Case(operator, {"B": 1, "T": length} | _LAYER, {"k": 2}) for operator in OPERATORS for length in (2048, 1)
)

SMALL = tuple(Case(operator, {"B": 2, "T": 6, "D": 12, "H": 2, "E": 4, "f": 10}, {"k": 2}) for operator in OPERATORS)
