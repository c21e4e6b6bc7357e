"""Where runtimes part: outputs, every layer, the node at fault, and what it means for the model."""

from __future__ import annotations

from .api import diff
from .files.api import diff_files
from .options import DiffOptions
from .precision.planning import plan_precision

__all__ = ["DiffOptions", "diff", "diff_files", "plan_precision"]
