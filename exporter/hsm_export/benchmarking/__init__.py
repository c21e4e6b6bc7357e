"""Benchmarks: how long a file takes in each runtime, after its numbers were proved right."""

from __future__ import annotations

from .api import bench
from .result import Accuracy, BenchResult, Crossover, Measurement, Spread

__all__ = ["Accuracy", "BenchResult", "Crossover", "Measurement", "Spread", "bench"]
