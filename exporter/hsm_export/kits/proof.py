"""The validation set of a kit: inputs that its profiles take, the right numbers, and how far off they may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..building.plan import Plan
from ..errors import UsageError
from ..formats.profile import Profile, Range

if TYPE_CHECKING:
    from torch import nn

    from ..onnx_model.model_file import ModelFile
    from ..validation.cases import Case
    from ..validation.references import References

# Batches and lengths that show mistakes: one token, odd numbers, more than a tile; clipped to each profile.
_SHAPES = ((1, 1), (8, 2), (4, 3), (3, 17), (2, 67))
# Tokens that a decoding step's state holds beside its own, where the file leaves its capacity open.
_ROOM = 32


def prove(plan: Plan, against: str | Path | nn.Module | None, progress: Callable[[str], None]) -> References:
    """Compute the right numbers of a plan's cases.

    Raises:
        UsageError: no length fits all dynamic dimensions of a profile.
        BadInputError: the model does not give finite numbers.
    """
    from ..onnx_model.model_file import open_model
    from ..validation.opening import references

    file = open_model(plan.source.path)
    return references(file, cases(file, plan), against, progress)


def cases(file: ModelFile, plan: Plan) -> list[Case]:
    """Return random inputs whose shapes the plan's profiles take."""
    from ..validation.cases import shaped_cases

    made: dict[tuple[int, int], Case] = {}
    for profile in plan.profiles or ({},):
        wanted = [shape for shape in dict.fromkeys(_shapes(file, profile)) if shape not in made]
        random = shaped_cases(file, wanted)[: len(wanted)] if wanted else []
        made.update(zip(wanted, (_with_room(file, case, profile) for case in random), strict=True))
    return list(made.values())


def _with_room(file: ModelFile, case: Case, profile: Profile) -> Case:
    """Return a decoding step whose growing states have room for its tokens; other cases as they are."""
    from ..formats.state_spec import CAPACITY

    state = file.state() if "state" in file.metadata else None
    growing = [tensor for tensor in state.tensors if tensor.capacity_axis is not None] if state else []
    if state is None or not growing:
        return case
    batch, length = case.feed["tokens"].shape
    capacity = state.capacity or _clipped(length + _ROOM, profile[CAPACITY])
    rng = np.random.default_rng(length)
    feed = dict(case.feed)
    for tensor in growing:
        numbers = rng.standard_normal(tensor.sizes(batch, capacity))
        feed[tensor.past] = numbers.astype(feed[tensor.past].dtype)
    feed["position"] = rng.integers(0, max(capacity - length, 0) + 1, batch)
    return replace(case, feed=feed)


def _shapes(file: ModelFile, profile: Profile) -> list[tuple[int, int]]:
    """Return (batch, length) inside a profile."""
    first = file.inputs[0].shape[0] if file.inputs and file.inputs[0].shape else "batch"
    batches = [sizes for name, sizes in profile.items() if name in (first, "batch")]
    lengths = [sizes for name, sizes in profile.items() if name not in (first, "batch", "capacity")]
    low, high = (max((s.min for s in lengths), default=1), min((s.max for s in lengths), default=1))
    if low > high:
        raise UsageError(
            f"no length lies in the ranges of all of {', '.join(name for name in profile if name != first)}",
            "give them overlapping sizes: the kit's inputs have one length",
        )
    most, least = min((s.max for s in batches), default=1), max((s.min for s in batches), default=1)
    return [
        (_clipped(batch, Range(least, least, most)), _clipped(length, Range(low, low, high)))
        for batch, length in _SHAPES
    ]


def _clipped(size: int, sizes: Range) -> int:
    return min(max(size, sizes.min), sizes.max)


def arrays(references: References) -> dict[str, Any]:
    """Return a kit's arrays: `case0.input.tokens`, `case0.expected.logits` (float64), `case0.compared.logits`."""
    named: dict[str, Any] = {}
    for index, (case, bars) in enumerate(zip(references.cases, references.bars, strict=True)):
        named.update({f"case{index}.input.{name}": array for name, array in case.feed.items()})
        for name, bar in bars.items():
            named[f"case{index}.expected.{name}"] = bar.reference
            named[f"case{index}.compared.{name}"] = bar.comparable
    return named


def descriptions(references: References) -> list[Mapping[str, Any]]:
    """Return every case's name and the tolerances of its outputs."""
    return [
        {"name": case.name, "tolerances": {name: bar.threshold.value for name, bar in bars.items()}}
        for case, bars in zip(references.cases, references.bars, strict=True)
    ]
