"""Calls of linear attention with decay for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import DECAYED_DELTA_RULE, DECAYED_LINEAR_ATTENTION

_EXCLUSIVE = {"exclusive": 0}
_PROMPT = {"B": 1, "T": 2048, "H": 8, "K": 64, "V": 64, "G": 64}
_STEP = {"B": 8, "T": 1, "H": 8, "K": 64, "V": 64, "G": 64}
_SMALL = {"B": 2, "T": 6, "H": 2, "K": 8, "V": 5, "G": 8}
_DECAY = {"log_decay": (-2.0, 0.0)}

TYPICAL = (
    Case(DECAYED_LINEAR_ATTENTION, _PROMPT, _EXCLUSIVE),
    Case(DECAYED_LINEAR_ATTENTION, _STEP, _EXCLUSIVE),
    Case(DECAYED_DELTA_RULE, _PROMPT),
    Case(DECAYED_DELTA_RULE, _STEP),
)

# Small a and b keep what a token writes below what its decay takes, so that the state does not grow without bound.
SMALL = (
    Case(DECAYED_LINEAR_ATTENTION, _SMALL, {"exclusive": 1}, ranges=_DECAY),
    Case(DECAYED_DELTA_RULE, _SMALL, ranges=_DECAY | {"a": (-0.3, 0.3), "b": (-0.3, 0.3)}),
)
