"""Engines: compile an exported model for NVIDIA GPUs."""

from __future__ import annotations

from .engine import build
from .result import BuildResult

__all__ = ["BuildResult", "build"]
