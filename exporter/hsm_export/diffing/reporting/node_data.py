"""A diff's layers as an overlay for Model Explorer: every node's own error in units of what it may err.

The file is Model Explorer's "custom node data" of one graph, which its page opens beside the model: `results` has a
number for each node, by the node's name or, for nodes without one, by a tensor that it writes; `thresholds` says which
colour a number up to each bound gets.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ...files import atomic_path
from ..results import DiffResult, LayerDiff

# What JSON has no infinity for.
_INFINITE = 1e300
# Upper bounds in units of the threshold, with a colour of the background and of the text.
_COLOURS = (
    (0.01, "#e8f5e9", "#1b5e20"),
    (0.1, "#c8e6c9", "#1b5e20"),
    (0.5, "#fff9c4", "#4e342e"),
    (1.0, "#ffe082", "#4e342e"),
    (_INFINITE, "#c62828", "#ffffff"),
)
# The iteration, or the stacked results, in the path of a node of a loop, which is one node in the model.
_ITERATION = re.compile(r"/(?:body|output)\[\d+(?:…\d+)?\].*")


def write_node_data(result: DiffResult, path: str | Path) -> None:
    """Write the overlay of a diff's layers; of several runtimes each node has the worst.

    Raises:
        BadInputError: the file cannot be written.
    """
    with atomic_path(path) as scratch:
        scratch.write_text(json.dumps(node_data(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def node_data(result: DiffResult) -> dict[str, Any]:
    """Return the overlay as JSON-ready data; layers that nobody could judge are not in it."""
    judged = [item for runtime in result.runtimes for item in runtime.layers if item.own is not None]
    values: dict[str, float] = {}
    for item in judged:
        for key in _keys(item):
            values[key] = max(values.get(key, 0.0), item.severity if math.isfinite(item.severity) else _INFINITE)
    names = dict.fromkeys(item.runtime for item in judged)
    return {
        "name": f"own error / allowed ({', '.join(names) or 'no layers'})",
        "results": {key: {"value": value} for key, value in values.items()},
        "thresholds": [{"value": bound, "bgColor": back, "textColor": text} for bound, back, text in _COLOURS],
    }


def _keys(item: LayerDiff) -> list[str]:
    """Return what stands for a layer's node; iterations of a loop are the node that holds them."""
    outer = _ITERATION.sub("", item.node)
    if outer != item.node:
        return [outer]
    return [item.node] if item.node != f"{item.operator}_{item.index}" else [item.tensor]
