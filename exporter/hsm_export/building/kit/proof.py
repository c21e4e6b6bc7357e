"""The validation set of a kit: inputs that its profiles take, the right numbers, and how far off they may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UsageError
from ..plan import Plan
from ..profiles import Profile

if TYPE_CHECKING:
    from torch import nn

    from ...validation.cases import Case
    from ...validation.model_file import ModelFile
    from ...validation.references import References

# Batches and lengths that show mistakes: one token, odd numbers, more than a tile; clipped to each profile.
_SHAPES = ((1, 1), (8, 2), (4, 3), (3, 17), (2, 67))


def prove(plan: Plan, against: str | Path | nn.Module | None, progress: Callable[[str], None]) -> References:
    """Compute the right numbers of a plan's cases.

    Raises:
        UsageError: no length fits all dynamic dimensions of a profile.
        BadInputError: the model does not give finite numbers.
    """
    from ...validation.api import references
    from ...validation.model_file import open_model

    file = open_model(plan.source.path)
    return references(file, cases(file, plan), against, progress)


def cases(file: ModelFile, plan: Plan) -> list[Case]:
    """Return random inputs whose shapes the plan's profiles take."""
    from ...validation.cases import shaped_cases

    wanted = list(dict.fromkeys(shape for profile in plan.profiles or ({},) for shape in _shapes(file, profile)))
    return shaped_cases(file, wanted)[: len(wanted)]


def _shapes(file: ModelFile, profile: Profile) -> list[tuple[int, int]]:
    """Return (batch, length) inside a profile."""
    first = file.inputs[0].shape[0] if file.inputs and file.inputs[0].shape else "batch"
    batches = [sizes for name, sizes in profile.items() if name in (first, "batch")]
    lengths = [sizes for name, sizes in profile.items() if name not in (first, "batch")]
    low, high = (max((s.min for s in lengths), default=1), min((s.max for s in lengths), default=1))
    if low > high:
        raise UsageError(
            f"no length lies in the ranges of all of {', '.join(name for name in profile if name != first)}",
            "give them overlapping sizes: the kit's inputs have one length",
        )
    most, least = min((s.max for s in batches), default=1), max((s.min for s in batches), default=1)
    return [(min(max(batch, least), most), min(max(length, low), high)) for batch, length in _SHAPES]


def arrays(references: References) -> dict[str, Any]:
    """Return a kit's arrays: `case0.input.tokens`, `case0.expected.logits` (float64), `case0.compared.logits`."""
    named: dict[str, Any] = {}
    for index, (case, bars) in enumerate(zip(references.cases, references.bars, strict=True)):
        named.update({f"case{index}.input.{name}": array for name, array in case.feed.items()})
        for name, bar in bars.items():
            named[f"case{index}.expected.{name}"] = np.asarray(bar.reference, np.float64)
            named[f"case{index}.compared.{name}"] = bar.comparable
    return named


def descriptions(references: References) -> list[Mapping[str, Any]]:
    """Return every case's name and the tolerances of its outputs."""
    return [
        {"name": case.name, "tolerances": {name: bar.tolerance for name, bar in bars.items()}}
        for case, bars in zip(references.cases, references.bars, strict=True)
    ]
