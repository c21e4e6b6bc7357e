"""Mixers and feed-forward networks as a model's configuration describes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .result import MixerRow

if TYPE_CHECKING:
    from hsm_models.config import ModelConfig

_LAYER = re.compile(r"layers\.(\d+)\.(mixer|feed_forward)\.")


def part_details(part: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind of a mixer or feed-forward network and its fields, from its configuration as JSON data."""
    return str(part["kind"]), {name: value for name, value in part.items() if name != "kind" and value is not None}


def configured_rows(config: ModelConfig, sizes: Mapping[str, int]) -> tuple[MixerRow, ...]:
    """Return one row for each mixer and feed-forward network.

    Args:
        config: the model's configuration.
        sizes: number of elements of each weight, by name; empty where they are not known.
    """
    counts: dict[str, int] = {}
    for name, size in sizes.items():
        if match := _LAYER.match(name):
            module = match.group(0).rstrip(".")
            counts[module] = counts.get(module, 0) + size
    rows = []
    for name, part in config.parts().items():
        kind, details = part_details(part.to_data())
        rows.append(MixerRow(name, kind, (), details, counts.get(name, 0)))
    return tuple(rows)
