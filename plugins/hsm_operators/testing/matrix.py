"""Every implementation of some operators in every type and situation, against the float64 definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .implementations import DTYPES, Implementation
from .scenarios import SCENARIOS, Bench, Check
from .subject import Subject


@dataclass(frozen=True)
class Cell:
    """One implementation of one operator in one type.

    Attributes:
        operator: qualified name.
        implementation: such as "torch", "ort" or "fast".
        dtype: the type T; "" where the implementation was skipped as a whole.
        checks: what was judged.
        skipped: why nothing was judged; "" where it was.
    """

    operator: str
    implementation: str
    dtype: str = ""
    checks: Sequence[Check] = ()
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """ "passed", "failed" or "skipped": not judged is not passed."""
        if self.skipped or not self.checks:
            return "skipped"
        return "passed" if all(check.passed for check in self.checks) else "failed"

    @property
    def worst(self) -> Check | None:
        """The check that went worst."""
        order = sorted(self.checks, key=lambda check: (check.passed, -check.worst))
        return order[0] if order else None


@dataclass(frozen=True)
class Matrix:
    """What the operators of a folder were judged to be."""

    cells: Sequence[Cell] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether something was judged, and nothing failed."""
        verdicts = {cell.verdict for cell in self.cells}
        return "failed" not in verdicts and "passed" in verdicts

    @property
    def failures(self) -> list[str]:
        """A sentence for each check that failed."""
        return [
            f"{cell.operator}, {cell.implementation}, {cell.dtype}, {check.what}: "
            f"{check.problem or f'{check.worst:.3g} times the allowed error'}"
            for cell in self.cells
            for check in cell.checks
            if not check.passed
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {"passed": self.passed, "cells": [_cell(cell) for cell in self.cells]}


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "operator": cell.operator,
        "implementation": cell.implementation,
        "dtype": cell.dtype or None,
        "verdict": cell.verdict,
        "skipped": cell.skipped or None,
        "worst": _number(cell.worst.worst) if cell.worst else None,
        "checks": [
            {"what": c.what, "passed": c.passed, "worst": _number(c.worst), "problem": c.problem or None}
            for c in cell.checks
        ],
    }


def _number(value: float) -> float | str:
    """Return a number as JSON has it, which has no infinity."""
    return float(f"{value:.4g}") if np.isfinite(value) else "infinite"


Ways = Mapping[str, Implementation | str]


def judge(
    subjects: Iterable[Subject],
    ways_of: Callable[[Subject, str], Ways],
    dtypes: Sequence[str] = DTYPES,
    progress: Callable[[str], None] = lambda _text: None,
) -> Matrix:
    """Run the matrix.

    Args:
        subjects: the operators.
        ways_of: returns the implementations of an operator in a type by name; a sentence says why one is skipped.
        dtypes: the types.
        progress: is told what runs.
    """
    cells: list[Cell] = []
    for subject in subjects:
        for dtype in dtypes:
            progress(f"{subject.operator.qualified_name} in {dtype}")
            cells += _judged(subject, dtype, ways_of(subject, dtype))
    return Matrix(tuple(cells))


def _judged(subject: Subject, dtype: str, ways: Ways) -> Iterator[Cell]:
    bench, name = Bench(subject, dtype), subject.operator.qualified_name
    for way, implementation in ways.items():
        if isinstance(implementation, str):
            yield Cell(name, way, dtype, skipped=implementation)
            continue
        checks = tuple(check for scenario in SCENARIOS for check in scenario(bench, implementation))
        yield Cell(name, way, dtype, checks)
