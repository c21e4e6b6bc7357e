"""Run a source at the sizes of a file whose shapes are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs

from ..errors import UsageError
from ..formats.tensor import InputSpec
from ..onnx_model.static_shapes import require_all
from .dimensions import resized, sizes_of
from .source import Source


def at_sizes(
    source: Source, inputs: tuple[InputSpec, ...], sizes: Mapping[str, int]
) -> tuple[Source, tuple[InputSpec, ...]]:
    """Return a source whose runs have these sizes, and the inputs as a graph of these sizes has them.

    Args:
        source: a traced module.
        inputs: its inputs.
        sizes: name of each dynamic dimension -> its size.

    Raises:
        UsageError: the sizes are not those of the dynamic dimensions, or below 1.
    """
    require_all(sizes_of(inputs), sizes)
    if low := sorted(name for name, size in sizes.items() if size < 1):
        raise UsageError(f"{low[0]} cannot be {sizes[low[0]]}", "sizes start at 1")
    runs = source.runs_at(sizes) if source.runs_at else (tuple(resized(source.arguments.inputs, inputs, sizes)),)
    fixed = []
    for spec in inputs:
        shape: tuple[int, ...] = tuple(_number(dim, sizes) for dim in spec.shape)
        fixed.append(
            structs.replace(
                spec,
                shape=shape,
                example_shape=shape,
                counts=_number(spec.counts, sizes),
                indexes=_number(spec.indexes, sizes),
            )
        )
    return replace(source, runs=runs), tuple(fixed)


def _number(dim: int | str | None, sizes: Mapping[str, int]) -> Any:
    return sizes[dim] if isinstance(dim, str) and dim in sizes else dim
