"""Calls of the expert products with few bits for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import OPERATORS

# Scales are above 0, as a quantiser makes them.
_SCALES = {"scales": (0.002, 0.02)}
_LAYER = {"D": 512, "H": 8, "E": 8, "f": 64}

TYPICAL = tuple(
    Case(
        operator,
        {"B": 1, "T": length, "G": 1, "R": 256 if "D" in operator.port("x").shape else 32} | _LAYER,
        {"k": 2, "per_byte": 2},
    )
    for operator in OPERATORS
    for length in (2048, 1)
)

SMALL = tuple(
    Case(operator, {"B": 2, "T": 6, "D": 12, "H": 2, "E": 4, "f": 12, "G": 2, "R": 3}, {"k": 2, "per_byte": 2}, _SCALES)
    for operator in OPERATORS
)
