"""The matrix that every operator is held to, ours and anyone's: all implementations, types and situations.

The definition is the float64 oracle. What is judged are PyTorch's function, the ONNX body, and the kernels; `judging`
says what they are allowed.
"""

from __future__ import annotations

from .implementations import DTYPES, FaultError, Implementation, KernelOf, Torch
from .judging import Judge, judge_of, rounded
from .matrix import Cell, Matrix, judge
from .scenarios import SCENARIOS, Bench, Check
from .subject import Subject, default_case
from .trial import Trial, trial_of, with_rows

__all__ = [
    "DTYPES",
    "SCENARIOS",
    "Bench",
    "Cell",
    "Check",
    "FaultError",
    "Implementation",
    "Judge",
    "KernelOf",
    "Matrix",
    "Subject",
    "Torch",
    "Trial",
    "default_case",
    "judge",
    "judge_of",
    "rounded",
    "trial_of",
    "with_rows",
]
