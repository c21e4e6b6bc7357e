"""Hold an engine's numbers against the references that came with the kit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...comparison.verdict import judge as compare

Array = Any  # np.ndarray; NumPy's generics say nothing here


@dataclass(frozen=True)
class Verdict:
    """One output in one case.

    Attributes:
        case: the case's name.
        output: the output's name.
        error: largest absolute error over the elements that count; infinite where a number is NaN or infinite that
            ought not to be.
        tolerance: what it may be.
        problem: why it fails; None when it passes.
    """

    case: str
    output: str
    error: float
    tolerance: float
    problem: str | None


def arrays_of(archive: Mapping[str, Array], case: int, part: str) -> dict[str, Array]:
    """Return the arrays of one case and part ("input", "expected", "compared" or "output") by tensor name."""
    prefix = f"case{case}.{part}."
    return {name.removeprefix(prefix): archive[name] for name in archive if name.startswith(prefix)}


def judge(
    cases: Sequence[Mapping[str, Any]], references: Mapping[str, Array], outputs: Mapping[str, Array]
) -> list[Verdict]:
    """Judge every output of every case.

    Args:
        cases: per case its "name" and the "tolerances" of its outputs.
        references: the kit's arrays (`case0.expected.logits`, `case0.compared.logits`).
        outputs: the engine's arrays (`case0.output.logits`).
    """
    verdicts = []
    for index, case in enumerate(cases):
        expected, compared = (arrays_of(references, index, part) for part in ("expected", "compared"))
        for name, tolerance in case["tolerances"].items():
            value = outputs.get(f"case{index}.output.{name}")
            found = compare(value, expected[name], float(tolerance), compared[name])
            verdicts.append(Verdict(case["name"], name, found.errors.max_abs, float(tolerance), found.reason))
    return verdicts
