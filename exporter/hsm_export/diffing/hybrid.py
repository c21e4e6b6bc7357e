"""Run a file node by node, each node in one of two ways: a runtime for some nodes, another for the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import HsmExportError, UsageError
from ..runtimes.runtime import RunContext
from ..validation.running import quiet
from .graph import LayerGraph

Array = NDArray[Any]
# Opened nodes that stay open: each holds its weights once more.
_OPEN_NODES = 1024
_OPEN_BYTES = 1 << 30
_ENGINES = ("tensorrt", "tensorrt-rtx")


class OpenNode(Protocol):
    """A node that is ready to run."""

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the node's results by tensor name."""

    def close(self) -> None:
        """Release its memory."""


class Way(Protocol):
    """A way to run single nodes."""

    name: str

    def open(self, context: RunContext) -> OpenNode:
        """Make a model of one node ready to run; the context's model is that one."""


class RuntimeWay:
    """Runs nodes in a runtime of the registry.

    Args:
        name: what reports call it.
        runtime: the runtime's name.
        dtype: NumPy type that floating-point results are rounded to; None leaves them as they are.

    Raises:
        UsageError: the runtime runs whole models only.
    """

    def __init__(self, name: str, runtime: str, dtype: str | None = None) -> None:
        from ..runtimes import get

        self.name = name
        self._runtime = get(runtime)
        self._dtype = dtype
        if self._runtime.needs_source or runtime in _ENGINES:
            raise UsageError(
                f"{runtime} runs whole models, not single nodes, so it cannot be bisected",
                "bisect between ort, ort-fused, onnx-reference, onnx64 or the precisions",
            )

    def open(self, context: RunContext) -> OpenNode:
        """Make a runner of the node."""
        return _RunnerNode(self._runtime.runner(context), self._dtype)


class _RunnerNode:
    def __init__(self, runner: Any, dtype: str | None) -> None:
        self._runner = runner
        self._dtype = dtype
        with quiet():
            runner.activate()

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        with quiet():
            outputs = self._runner.infer({name: np.asarray(array) for name, array in feed.items()}, check_inputs=False)
        # A runner may hand out its own buffers.
        return {name: self._rounded(np.array(array)) for name, array in outputs.items()}

    def close(self) -> None:
        with quiet():
            self._runner.deactivate()

    def _rounded(self, array: Array) -> Array:
        return array.astype(self._dtype) if self._dtype is not None and array.dtype.kind == "f" else array


def way(name: str, precision: str) -> Way:
    """Return the way of a name.

    Args:
        name: a runtime; the file's own precision, which means ONNX Runtime; "fp32" and "fp64", which compute a node
            in float64 from the file's weights and pass its results on in that type, not rounded to the file's.
        precision: the file's.

    Raises:
        UsageError: no runtime has that name, or it cannot run single nodes.
    """
    if name == precision:
        return RuntimeWay(name, "ort")
    wide = {"fp32": "float32", "fp64": "float64"}
    return RuntimeWay(name, "onnx64", wide[name]) if name in wide else RuntimeWay(name, name)


class Hybrid:
    """Runs a graph in topological order, each of its nodes the good or the bad way.

    Tensors are released when their last reader has run; nodes stay open as memory allows. A context manager.

    Args:
        context: what is run.
        good, bad: the ways.
    """

    def __init__(self, context: RunContext, good: Way, bad: Way) -> None:
        self._context = context
        self._graph = LayerGraph(context.model)
        self._ways = {False: good, True: bad}
        self._open: OrderedDict[tuple[int, bool], tuple[OpenNode, int]] = OrderedDict()
        self._outputs = [value.name for value in context.model.graph.output]
        self._last_reads = self._releases()
        self.runs = 0

    def __enter__(self) -> Hybrid:
        return self

    def __exit__(self, *error: object) -> None:
        for node, _ in self._open.values():
            node.close()
        self._open.clear()

    @property
    def nodes(self) -> tuple[tuple[str, str], ...]:
        """(name, operator) of every node that depends on the inputs, in graph order."""
        return tuple((layer.node, layer.operator) for layer in self._graph.layers)

    def run(self, feed: Mapping[str, Array], bad: Collection[int]) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feed: the graph's inputs.
            bad: positions in `nodes` of those that run the bad way.

        Returns:
            The graph's outputs by name.
        """
        return self._walk(feed, lambda position, inputs: self._node(position, position in bad).run(inputs))

    def unstable(self, feed: Mapping[str, Array], bad: bool) -> tuple[int, ...]:
        """Run every node twice on the same inputs, one way, and return the positions of those that give two results."""
        found = []

        def twice(position: int, inputs: Mapping[str, Array]) -> dict[str, Array]:
            node = self._node(position, bad)
            first, second = node.run(inputs), node.run(inputs)
            if any(not np.array_equal(first[name], second[name], equal_nan=_is_float(first[name])) for name in first):
                found.append(position)
            return first

        self._walk(feed, twice)
        return tuple(found)

    def _walk(
        self, feed: Mapping[str, Array], run: Callable[[int, Mapping[str, Array]], dict[str, Array]]
    ) -> dict[str, Array]:
        self.runs += 1
        tensors = {name: np.asarray(array) for name, array in feed.items()}
        for position, layer in enumerate(self._graph.layers):
            tensors.update(run(position, {name: tensors[name] for name in layer.inputs}))
            for name in self._last_reads[position]:
                tensors.pop(name, None)
        missing = [name for name in self._outputs if name not in tensors]
        if missing:
            raise HsmExportError(f"output {missing[0]} depends on weights alone: there is nothing to bisect")
        return {name: tensors[name] for name in self._outputs}

    def _node(self, position: int, bad: bool) -> OpenNode:
        """Return a node ready to run one way; closes those that were not used for longest when there are too many."""
        key = position, bad
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key][0]
        layer = self._graph.layers[position]
        model = self._graph.extract([layer.index])
        size = _weight_bytes(model)
        while self._open and (
            len(self._open) >= _OPEN_NODES or sum(held for _, held in self._open.values()) + size > _OPEN_BYTES
        ):
            self._open.popitem(last=False)[1][0].close()
        context = replace(self._context, model=model, source=None, routed=(), traced=())
        try:
            node = self._ways[bad].open(context)
        except HsmExportError:
            raise
        except Exception as error:  # runtimes raise what they like
            name, operator = self.nodes[position]
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise HsmExportError(
                f"{self._ways[bad].name} cannot run node {name} ({operator}) on its own: {reason}"
            ) from error
        self._open[key] = node, size
        return node

    def _releases(self) -> list[list[str]]:
        """Return, for every position, the tensors that nobody needs after it."""
        last: dict[str, int] = {}
        for position, layer in enumerate(self._graph.layers):
            node = self._graph.model.graph.node[layer.index]
            last.update(dict.fromkeys((*layer.inputs, *filter(None, node.output)), position))
        releases: list[list[str]] = [[] for _ in self._graph.layers]
        for name, position in last.items():
            if name not in self._outputs:
                releases[position].append(name)
        return releases


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"


def _weight_bytes(model: onnx.ModelProto) -> int:
    sizes = (
        int(np.prod(tensor.dims)) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        for tensor in model.graph.initializer
    )
    return sum(sizes)
