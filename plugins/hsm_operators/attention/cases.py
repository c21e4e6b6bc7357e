"""Calls of softmax attention for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import (
    ATTENTION,
    ATTENTION_CACHED,
    RELATIVE_ATTENTION,
    RELATIVE_ATTENTION_CACHED,
    WINDOW_ATTENTION_CACHED,
    WINDOW_RELATIVE_ATTENTION_CACHED,
)

_WIDE = {"H": 8, "G": 8, "d": 64, "e": 64}
_GROUPED = {"H": 8, "G": 2, "d": 64, "e": 64}
_SCALE = {"scale": 0.125}
_CAUSAL, _FULL = {"causal": 1, "window": 0, **_SCALE}, {"causal": 0, "window": 0, **_SCALE}
_WINDOW = {"window": 256, **_SCALE}

TYPICAL = (
    Case(ATTENTION, {"B": 1, "T": 2048, "S": 2048, **_WIDE}, _CAUSAL),
    Case(ATTENTION, {"B": 8, "T": 256, "S": 256, **_WIDE}, _FULL),
    Case(ATTENTION_CACHED, {"B": 1, "T": 1, "C": 2048, **_WIDE}, _SCALE),
    Case(ATTENTION_CACHED, {"B": 8, "T": 1, "C": 2048, **_GROUPED}, _SCALE),
    Case(WINDOW_ATTENTION_CACHED, {"B": 8, "T": 1, "R": 256, **_WIDE}, _WINDOW),
    Case(RELATIVE_ATTENTION, {"B": 1, "T": 2048, "S": 2048, "P": 2048, **_WIDE}, _CAUSAL),
    Case(RELATIVE_ATTENTION_CACHED, {"B": 1, "T": 1, "C": 2048, **_WIDE}, _SCALE),
    Case(WINDOW_RELATIVE_ATTENTION_CACHED, {"B": 8, "T": 1, "R": 256, "P": 256, **_WIDE}, _WINDOW),
)

_SMALL = {"B": 2, "T": 6, "H": 4, "G": 2, "d": 8, "e": 5}
SMALL = (
    Case(ATTENTION, {**_SMALL, "S": 6}, {"causal": 1, "window": 4, "scale": 0.375}),
    Case(ATTENTION_CACHED, {**_SMALL, "C": 19}, {"scale": 0.375}),
    Case(WINDOW_ATTENTION_CACHED, {**_SMALL, "R": 9}, {"window": 5, "scale": 0.375}),
    Case(RELATIVE_ATTENTION, {**_SMALL, "S": 6, "P": 11}, {"causal": 0, "window": 0, "scale": 0.375}),
    Case(RELATIVE_ATTENTION_CACHED, {**_SMALL, "C": 19}, {"scale": 0.375}),
    Case(WINDOW_RELATIVE_ATTENTION_CACHED, {**_SMALL, "R": 9, "P": 6}, {"window": 5, "scale": 0.375}),
)
