"""Build kits: what a GPU machine needs to build, run and check an engine, and the way back from there."""

from __future__ import annotations

from .accepting import accept_kit
from .writing import KitResult, write_kit

__all__ = ["KitResult", "accept_kit", "write_kit"]
