"""Where runtimes part: outputs, every layer, the node at fault, and what it means for the model."""

from __future__ import annotations

from .api import DiffOptions, diff
from .files.api import diff_files
from .precision.planning import plan_precision

__all__ = ["DiffOptions", "diff", "diff_files", "plan_precision"]
