"""Prove that every runtime keeps the numbers of the PyTorch model."""

from .opening import validate
from .results import Comparison, Flips, RuntimeReport, ValidationResult

__all__ = ["Comparison", "Flips", "RuntimeReport", "ValidationResult", "validate"]
