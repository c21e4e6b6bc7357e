"""Run a file node by node, each node in one of two ways: a runtime for some nodes, another for the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import HsmExportError, UsageError
from ...runtimes.runtime import RunContext
from ...validation.running import quiet
from ..layers.graph import LayerGraph

Array = NDArray[Any]
# Opened nodes that stay open: each holds its weights once more.
_OPEN_NODES = 1024
_OPEN_BYTES = 1 << 30
_ENGINES = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Piece:
    """Nodes that run together; most often one.

    Attributes:
        name, operator: of the node, or path and class of the module that the nodes are.
        indices: positions of the nodes in the graph.
        reads: the tensors that come from outside and depend on the graph's inputs.
        writes: the tensors that leave.
        swaps: whether there is a choice; without one the bad way runs it.
    """

    name: str
    operator: str
    indices: tuple[int, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    swaps: bool = True


def node_pieces(graph: LayerGraph, swaps: bool = True) -> tuple[Piece, ...]:
    """Return every node that depends on the graph's inputs as a piece of its own, in graph order."""
    nodes = graph.model.graph.node
    return tuple(
        Piece(
            layer.node,
            layer.operator,
            (layer.index,),
            layer.inputs,
            tuple(name for name in nodes[layer.index].output if name),
            swaps,
        )
        for layer in graph.layers
    )


class OpenNode(Protocol):
    """A piece that is ready to run."""

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the piece's results by tensor name."""

    def close(self) -> None:
        """Release its memory."""


class Way(Protocol):
    """A way to run pieces."""

    name: str

    def open(self, context: RunContext, piece: Piece) -> OpenNode:
        """Make a piece ready to run; the context's model is that piece alone."""


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
        from ...runtimes import get

        self.name = name
        self._runtime = get(runtime)
        self._dtype = dtype
        if self._runtime.needs_source or runtime in _ENGINES:
            raise UsageError(
                f"{runtime} runs whole models, not single nodes, so it cannot be bisected",
                "bisect between ort, ort-fused, onnx-reference, onnx64 or the precisions",
            )

    def open(self, context: RunContext, piece: Piece) -> OpenNode:
        """Make a runner of the piece."""
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
    """Runs a graph in topological order, each of its pieces the good or the bad way.

    Tensors are released when their last reader has run; pieces stay open as memory allows. A context manager.

    Args:
        context: what is run.
        graph: its graph.
        good, bad: the ways.
        pieces: all of the graph in the order in which it can run; None means node by node.
    """

    def __init__(
        self, context: RunContext, graph: LayerGraph, good: Way, bad: Way, pieces: Sequence[Piece] | None = None
    ) -> None:
        self._context = context
        self._graph = graph
        self._pieces = node_pieces(graph) if pieces is None else tuple(pieces)
        self._swapped = [piece for piece in self._pieces if piece.swaps]
        self._ways = {False: good, True: bad}
        self._open: OrderedDict[tuple[Piece, bool], tuple[OpenNode, int]] = OrderedDict()
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
        """(name, operator) of every piece that there is a choice for, in the order in which they run."""
        return tuple((piece.name, piece.operator) for piece in self._swapped)

    def run(self, feed: Mapping[str, Array], bad: Collection[int]) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feed: the graph's inputs.
            bad: positions in `nodes` of those that run the bad way.

        Returns:
            The graph's outputs by name.
        """
        chosen = {self._swapped[position] for position in bad}
        return self._walk(feed, lambda piece, inputs: self._open_piece(piece, piece in chosen).run(inputs))

    def tensors(self, feed: Mapping[str, Array], bad: bool) -> dict[str, Array]:
        """Run the graph once, every piece one way, and return all its tensors by name."""
        kept = {name: np.asarray(array) for name, array in feed.items()}

        def run(piece: Piece, inputs: Mapping[str, Array]) -> dict[str, Array]:
            results = self._open_piece(piece, bad).run(inputs)
            kept.update(results)
            return results

        self._walk(feed, run)
        return kept

    def unstable(self, feed: Mapping[str, Array], bad: bool) -> tuple[int, ...]:
        """Run every piece twice on the same inputs, one way, and return the positions of those with two results."""
        found = []

        def twice(piece: Piece, inputs: Mapping[str, Array]) -> dict[str, Array]:
            node = self._open_piece(piece, bad)
            first, second = node.run(inputs), node.run(inputs)
            same = (np.array_equal(first[name], second[name], equal_nan=_is_float(first[name])) for name in first)
            if piece.swaps and not all(same):
                found.append(self._swapped.index(piece))
            return first

        self._walk(feed, twice)
        return tuple(found)

    def _walk(
        self, feed: Mapping[str, Array], run: Callable[[Piece, Mapping[str, Array]], dict[str, Array]]
    ) -> dict[str, Array]:
        self.runs += 1
        tensors = {name: np.asarray(array) for name, array in feed.items()}
        for piece, unneeded in zip(self._pieces, self._last_reads, strict=True):
            tensors.update(run(piece, {name: tensors[name] for name in piece.reads}))
            for name in unneeded:
                tensors.pop(name, None)
        missing = [name for name in self._outputs if name not in tensors]
        if missing:
            raise HsmExportError(f"output {missing[0]} depends on weights alone: there is nothing to bisect")
        return {name: tensors[name] for name in self._outputs}

    def _open_piece(self, piece: Piece, bad: bool) -> OpenNode:
        """Return a piece ready to run one way; closes those that were not used for longest when there are too many."""
        bad = bad or not piece.swaps
        key = piece, bad
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key][0]
        model = self._graph.extract(piece.indices, piece.writes)
        size = _weight_bytes(model)
        while self._open and (
            len(self._open) >= _OPEN_NODES or sum(held for _, held in self._open.values()) + size > _OPEN_BYTES
        ):
            self._open.popitem(last=False)[1][0].close()
        context = replace(self._context, model=model, source=None, routed=(), traced=())
        try:
            node = self._ways[bad].open(context, piece)
        except HsmExportError:
            raise
        except Exception as error:  # runtimes raise what they like
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise HsmExportError(
                f"{self._ways[bad].name} cannot run node {piece.name} ({piece.operator}) on its own: {reason}"
            ) from error
        self._open[key] = node, size
        return node

    def _releases(self) -> list[list[str]]:
        """Return, for every piece, the tensors that nobody needs after it."""
        last: dict[str, int] = {}
        for position, piece in enumerate(self._pieces):
            last.update(dict.fromkeys((*piece.reads, *piece.writes), position))
        releases: list[list[str]] = [[] for _ in self._pieces]
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
