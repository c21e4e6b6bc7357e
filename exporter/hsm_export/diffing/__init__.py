"""Where runtimes part: outputs, every layer, the node at fault, and what it means for the model."""

from __future__ import annotations
