"""Calls of the mixture of experts for tests and reports."""

from __future__ import annotations

from ..case import Case
from .spec import EXPERT_MLP

# A layer of the sigma-MoE of 47M parameters.
_LAYER = {"D": 412, "E": 155, "w": 128, "O": 412}

TYPICAL = tuple(Case(EXPERT_MLP, {"B": 1, "T": length} | _LAYER, {"k": 4, "activation": 0}) for length in (2048, 1))

SMALL = (Case(EXPERT_MLP, {"B": 2, "T": 6, "D": 12, "E": 5, "w": 8, "O": 10}, {"k": 2, "activation": 1}),)
