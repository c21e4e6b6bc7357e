"""Which weights of a file are not those of its PyTorch source: is it a file of another checkpoint?"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ...onnx_model.stored_weights import stored_weights
from ...runtimes.runtime import RunContext

_NAMED = 8


def changed_weights(context: RunContext) -> tuple[tuple[str, ...], int]:
    """Compare the initialisers that are named after the source's parameters with these, rounded to the file's types.

    Args:
        context: the file, with its source.

    Returns:
        The source's names of those that differ, in the file's order, and how many were compared.
    """
    assert context.source is not None
    import torch

    with torch.no_grad():
        parameters = context.source().state_dict()
        stored = stored_weights(context.model)
        found, compared = [], 0
        for tensor in context.model.graph.initializer:
            place = stored.get(tensor.name)
            name = place.name if place else tensor.name
            if name not in parameters:
                continue
            compared += 1
            own = onnx.numpy_helper.to_array(tensor, base_dir=str(context.folder))
            right = parameters[name].detach().cpu().double().numpy()
            if not _same(own, place.of_source(right) if place and right.ndim == len(place.order) else right):
                found.append(name)
    return tuple(found), compared


def sentence(changed: tuple[str, ...], compared: int, source: str) -> str:
    """Say in words which weights differ."""
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return f"{len(changed)} of {compared} weights are not those of {source}: {', '.join(changed[:_NAMED])}{more}"


def _same(own: Any, source: Any) -> bool:
    if own.shape != source.shape:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(np.asarray(source).astype(own.dtype), own))
