"""Engines: compile an exported model for NVIDIA GPUs, here or with a kit on another machine."""

from __future__ import annotations

from .engine import build
from .kit import KitResult, accept_kit, write_kit
from .result import BuildResult

__all__ = ["BuildResult", "KitResult", "accept_kit", "build", "write_kit"]
