"""Run a runtime with its intermediate tensors as further outputs, a bounded number of bytes at a time."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...limits import Limits
from ...runtimes.runtime import RunContext, Runtime
from ...validation.running import quiet
from .graph import Layer, LayerGraph
from .spool import Spool

Array = NDArray[Any]

_UNKNOWN_BYTES = 1 << 20  # of a tensor whose shape inference cannot tell


def expose(model: onnx.ModelProto, graph: LayerGraph, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of a model that outputs these tensors too."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    changed.graph.output.extend(graph.info(name) for name in dict.fromkeys(tensors) if name not in known)
    return changed


def tap(
    runtime: Runtime,
    context: RunContext,
    graph: LayerGraph,
    feed: Mapping[str, Array],
    spool: Spool,
    limits: Limits,
) -> None:
    """Run a runtime on a feed and spool every tensor that a layer reads or writes, and the outputs of the graph.

    What does not fit into the limits' memory at once takes further runs. Inputs are spooled too.

    Raises:
        LimitError: the time or the memory is used up.
        Exception: whatever the runtime raises.
    """
    for name, array in feed.items():
        spool.write(name, np.asarray(array))
    inner = {name for layer in graph.layers for name in layer.outputs}
    for run, layers in enumerate(_pieces(graph, feed, limits.chunk_bytes(8 if runtime.name == "onnx64" else 4))):
        limits.check(f"running {runtime.name}")
        tensors = _tensors(graph, layers)
        spool.assign((layer.index for layer in layers), run)
        exposed = replace(context, model=expose(context.model, graph, tensors))
        _run_into(spool, runtime, exposed, feed, run, inner - set(tensors))


def _run_into(
    spool: Spool, runtime: Runtime, context: RunContext, feed: Mapping[str, Array], run: int, others: Container[str]
) -> None:
    """Run a runtime and spool its outputs but `others`, without a second copy of them in memory."""
    with quiet(), runtime.runner(context) as runner:
        outputs: dict[str, Array] = dict(runner.infer(dict(feed), check_inputs=False))
        for name in list(outputs):
            array = outputs.pop(name)
            if name not in others:
                spool.write(name, np.asarray(array), run)


def run_once(runtime: Runtime, context: RunContext, feed: Mapping[str, Array]) -> Mapping[str, Array]:
    """Run a runtime on one feed; its memory is released before this returns."""
    with quiet():
        runner = runtime.runner(context)
        with runner:
            outputs: Mapping[str, Array] = runner.infer(dict(feed), check_inputs=False)
            return {name: np.array(array) for name, array in outputs.items()}


def wanted(graph: LayerGraph) -> tuple[str, ...]:
    """Return the tensors that a comparison of layers needs: what layers write, and whatever they read."""
    return _tensors(graph, graph.layers)


def _tensors(graph: LayerGraph, layers: Iterable[Layer]) -> tuple[str, ...]:
    inputs = {value.name for value in graph.model.graph.input}
    names = (name for layer in layers for name in (*layer.inputs, *layer.outputs))
    return tuple(name for name in dict.fromkeys(names) if name not in inputs)


def _pieces(graph: LayerGraph, feed: Mapping[str, Array], limit: int) -> Iterator[list[Layer]]:
    """Yield the layers in runs whose tensors' elements (4 bytes each) stay below a number of bytes."""
    sizes = graph.dimensions(feed)
    piece: list[Layer] = []
    held: dict[str, int] = {}
    for layer in graph.layers:
        added = {name: _bytes(graph, name, sizes) for name in _tensors(graph, [layer]) if name not in held}
        if piece and sum(held.values()) + sum(added.values()) > limit:
            yield piece
            piece, held = [], {}
            added = {name: _bytes(graph, name, sizes) for name in _tensors(graph, [layer])}
        piece.append(layer)
        held.update(added)
    yield piece


def _bytes(graph: LayerGraph, name: str, sizes: Mapping[str, int]) -> int:
    size = graph.elements(name, sizes)
    return 4 * size if size is not None else _UNKNOWN_BYTES


def single(
    runtime: Runtime, context: RunContext, model: onnx.ModelProto, feed: Mapping[str, Array]
) -> Mapping[str, Array]:
    """Run a part of the graph, which has neither expert masks nor a source of its own."""
    part = replace(context, model=model, source=None, routed=(), traced=())
    return run_once(runtime, part, feed)
