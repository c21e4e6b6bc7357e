"""What a quantised file says of itself: its plan, under one key of the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..formats.document import read
from ..formats.quantisation_plan import QuantisationPlan

if TYPE_CHECKING:
    import onnx

    from .model_file import ModelFile

KEY = "quantisation"
# How the names of scales end that stand beside weights in whole numbers.
SCALES = ".scales"
INT8_ACTIVATIONS = 4  # an `accuracy_level` of MatMulNBits that allows 8 bits for activations
_METADATA = f"hsm_export.{KEY}"


def write_record(model: onnx.ModelProto, plan: QuantisationPlan) -> None:
    """Write a plan into a graph's metadata, in the place of one that was there."""
    text = json.dumps(plan.to_dict(), separators=(",", ":"), allow_nan=False)
    for entry in model.metadata_props:
        if entry.key == _METADATA:
            entry.value = text
            return
    model.metadata_props.add(key=_METADATA, value=text)


def is_ours(model: onnx.ModelProto) -> bool:
    """Whether a graph's metadata hold a plan."""
    return any(entry.key == _METADATA for entry in model.metadata_props)


def plan_in(file: ModelFile) -> QuantisationPlan | None:
    """Return the plan that a quantised file of ours carries; None for other files.

    Raises:
        BadInputError: what it says is malformed.
    """
    return parsed_plan(file.metadata, str(file.path))


def parsed_plan(metadata: Mapping[str, str], where: str) -> QuantisationPlan | None:
    """Return the plan in a file's metadata; `where` names the file in errors."""
    text = metadata.get(KEY, "")
    if not text:
        return None
    return read(text, QuantisationPlan, f"{where}: its plan", "a quantisation plan", "quantise it again", whole=True)
