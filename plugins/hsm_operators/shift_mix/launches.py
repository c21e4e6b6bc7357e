"""Calls of real models for the report on CUDA launches."""

from __future__ import annotations

from ..case import Case
from .spec import SHIFT_MIX, SHIFT_MIX_CACHED

_SHIFTS = {"shifts": (1, 2, 4, 8)}

# Each block has its own part of the tensors: what is moved is the inputs and outputs.
LARGE = (
    Case(SHIFT_MIX, {"B": 8, "T": 4096, "D": 2048}, _SHIFTS),
    Case(SHIFT_MIX_CACHED, {"B": 64, "T": 1, "D": 2048, "R": 8}, _SHIFTS),
)
