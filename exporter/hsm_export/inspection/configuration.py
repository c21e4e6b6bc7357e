"""Mixers and feed-forward networks as a model's configuration describes them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .result import MixerRow

if TYPE_CHECKING:
    from hsm_models.config import FeedForwardConfig, MixerConfig, ModelConfig

_LAYER = re.compile(r"layers\.(\d+)\.(mixer|feed_forward)\.")


def layer_details(part: MixerConfig | FeedForwardConfig, width: int, layer_index: int) -> dict[str, Any]:
    """Return a mixer's or feed-forward network's fields, defaults that depend on the model filled in."""
    details = {name: value for name, value in dataclasses.asdict(part).items() if name != "kind" and value is not None}
    if part.kind == "hsm":
        details.setdefault("shifts", (2**layer_index,))
    elif part.kind in ("taylor_shift", "switch_head", "softmax"):
        details.setdefault("head_dim", width // details["heads"])
    return {name: list(value) if isinstance(value, tuple) else value for name, value in details.items()}


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
    for index, layer in enumerate(config.layers):
        for role, part in (("mixer", layer.mixer), ("feed_forward", layer.feed_forward)):
            if part is not None:
                name = f"layers.{index}.{role}"
                details = layer_details(part, config.width, index)
                rows.append(MixerRow(name, part.kind, (), details, counts.get(name, 0)))
    return tuple(rows)
