"""The graph that a set of inputs takes: branches taken and iterations made stand in the place of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ...onnx_model.control_flow import has_control_flow, named, unrolled, watched
from ...runtimes import get
from ...runtimes.runtime import RunContext
from .tapping import run_once

# Nodes that may stand in the place of control flow, and graphs inside graphs.
_MOST_NODES, _DEEPEST = 2000, 16


def taken_path(context: RunContext, feed: Mapping[str, NDArray[Any]]) -> RunContext:
    """Return a context whose model has no control flow on these inputs, as far as it can be taken apart.

    The file in float64 decides which way it goes.

    Args:
        context: what is run; it is returned as it is where there is nothing to take apart.
        feed: the inputs.
    """
    if not has_control_flow(context.model):
        return context
    model, kept, changed = named(context.model), tuple[str, ...](), False
    for _ in range(_DEEPEST):
        room = _MOST_NODES - len(model.graph.node) + len(context.model.graph.node)
        seen = watched(model, kept)
        if not seen.outputs or room <= 0:
            break
        try:
            outputs = run_once(get("onnx64"), replace(context, model=seen.model), feed)
        except Exception:  # what cannot be watched stays as it is
            break
        model, more = unrolled(model, {index: outputs[name] for index, name in seen.outputs.items()}, room)
        kept, changed = kept + more, True
    return replace(context, model=model) if changed else context
