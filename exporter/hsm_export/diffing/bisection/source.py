"""The PyTorch source as a way to run nodes: its modules and mixer operators in place of what was made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsm_operators.registry import find_torch

from ...errors import HsmExportError, UsageError
from ...runtimes.operator_calls import operators_called_by
from ...runtimes.reference_maths import reference_maths
from ...runtimes.runtime import RunContext
from ...runtimes.torch_module import TorchModuleRunner
from ...validation.running import quiet
from ..layers.alignment import Unit, align
from ..layers.graph import FLOATS, LayerGraph
from .hybrid import OpenNode, Piece, node_pieces

Array = NDArray[Any]
SOURCES = {"torch": None, "torch64": "fp64"}


@dataclass(frozen=True)
class _Call:
    """What a module or operator was called with.

    Attributes:
        function: the module or operator.
        arguments, options: positional and keyword arguments.
        given: position of an argument -> the tensor of the graph that takes its place.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    given: dict[int, str]

    def run(self, writes: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
        """Call it again with other tensors."""
        arguments = list(self.arguments)
        for position, name in self.given.items():
            before = arguments[position]
            value = torch.from_numpy(np.ascontiguousarray(feed[name]))
            arguments[position] = value.reshape(before.shape).to(before.dtype)
        with reference_maths():
            return dict(zip(writes, map(_array, _tensors(self.function(*arguments, **self.options))), strict=False))


class SourceWay:
    """Runs pieces by the source's own modules; a context manager that keeps the source loaded.

    Args:
        context: what is run; it has a source.
        name: "torch" (the file's precision) or "torch64".
        graph: the file's graph.
        feed: the graph's inputs.

    Raises:
        UsageError: there is no source.
    """

    def __init__(self, context: RunContext, name: str, graph: LayerGraph, feed: Mapping[str, Array]) -> None:
        if context.source is None:
            raise UsageError(f"{name} runs the PyTorch model, and there is none", "say which one with --against")
        self.name = name
        self._graph = graph
        self._runner = TorchModuleRunner(context, SOURCES[name] or context.precision, name)
        self._calls: dict[tuple[str, str], _Call] = {}
        self._units: list[Unit] = []
        self._feed = feed
        self.outputs: dict[str, Array] = {}

    def __enter__(self) -> SourceWay:
        with quiet():
            self._runner.activate()
        try:
            self._record()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with quiet():
            self._runner.deactivate()
        self._calls.clear()

    def open(self, context: RunContext, piece: Piece) -> OpenNode:
        """Return the call that the piece stands for."""
        return _SourceNode(self._calls[piece.name, piece.operator], piece.writes)

    def partitions(self) -> Iterator[tuple[Piece, ...]]:
        """Yield the graph in pieces, the finest first; the coarser ones leave fewer nodes without a counterpart.

        Raises:
            HsmExportError: the source and the file have no module or operator in common.
        """
        if not self._units:
            raise HsmExportError("no module or operator of the PyTorch model can be found in the file")
        yield self._partition(sorted(self._units, key=lambda unit: (len(unit.indices), not unit.single)))
        yield self._partition(sorted(self._units, key=lambda unit: (-len(unit.indices), unit.single)))

    def _partition(self, preferred: Sequence[Unit]) -> tuple[Piece, ...]:
        """Return disjoint units, those that come first in the list where they overlap, and all other nodes."""
        taken: set[int] = set()
        ordered: list[tuple[int, Piece]] = []
        for unit in preferred:
            if not taken & set(unit.indices):
                taken |= set(unit.indices)
                piece = Piece(unit.name, unit.operator, unit.indices, unit.reads, unit.writes)
                ordered.append((self._made_at(unit), piece))
        ordered += [
            (piece.indices[0], piece)
            for piece in node_pieces(self._graph, swaps=False)
            if piece.indices[0] not in taken
        ]
        return tuple(piece for _, piece in sorted(ordered, key=lambda item: item[0]))

    def _made_at(self, unit: Unit) -> int:
        """Return the position at which a unit's result is there: all that leads to it comes before."""
        nodes = self._graph.model.graph.node
        return max(index for index in unit.indices if set(nodes[index].output) & set(unit.writes))

    def _record(self) -> None:
        """Run the source once and keep how its modules and operators were called; drop those called more than once."""
        module = self._runner.module
        units = align(self._graph, module)
        # A module that is nothing but one operator of its name is called as that operator.
        operators_named = {(unit.name, unit.operator) for unit in units if unit.single}
        units = tuple(unit for unit in units if unit.single or (unit.name, unit.operator) not in operators_named)
        counts: dict[tuple[str, str], int] = {}
        operators = iter([unit for unit in sorted(units, key=lambda unit: unit.indices) if unit.single])

        def seen(unit: Unit | None, function: Any, args: Any, kwargs: Any, result: Any) -> None:
            if unit is None:
                return
            key = unit.name, unit.operator
            counts[key] = counts.get(key, 0) + 1
            given = self._given(unit, args, kwargs)
            if given is not None and self._fits(unit, result):
                self._calls[key] = _Call(function, tuple(args), dict(kwargs), given)

        def hook(unit: Unit) -> Any:
            return lambda part, args, kwargs, result: seen(unit, part, args, kwargs, result)

        parts = dict(module.named_modules())
        modules = [unit for unit in units if not unit.single]
        handles = [parts[unit.name].register_forward_hook(hook(unit), with_kwargs=True) for unit in modules]
        try:
            with _operator_calls(lambda *call: seen(next(operators, None), *call)):
                self.outputs = dict(self._runner.infer(dict(self._feed), check_inputs=False))
        finally:
            for handle in handles:
                handle.remove()
        once = {key for key, count in counts.items() if count == 1} & set(self._calls)
        self._units = [unit for unit in units if (unit.name, unit.operator) in once]

    def _given(self, unit: Unit, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int, str] | None:
        """Return which arguments a unit's tensors are, None where that is not certain."""
        tensors = [position for position, value in enumerate(args) if isinstance(value, torch.Tensor)]
        if unit.single:
            names = list(self._graph.model.graph.node[unit.indices[0]].input)
            found = {position: names[position] for position in tensors if position < len(names)}
            found = {position: name for position, name in found.items() if name in unit.reads}
            return found if set(found.values()) == set(unit.reads) else None
        if len(tensors) != 1 or any(isinstance(value, torch.Tensor) for value in kwargs.values()):
            return None
        # Beside its argument, a module's nodes may read sizes.
        floats = [name for name in unit.reads if self._graph.types.get(name) in FLOATS]
        reads = floats or list(unit.reads)
        return {tensors[0]: reads[0]} if len(reads) == 1 else None

    def _fits(self, unit: Unit, result: Any) -> bool:
        """Say whether a result has as many dimensions as the file's tensor."""
        tensors = _tensors(result)
        if len(tensors) < len(unit.writes):
            return False
        infos = [self._graph.info(name).type.tensor_type for name in unit.writes]
        return all(
            not info.HasField("shape") or len(info.shape.dim) == tensor.dim()
            for info, tensor in zip(infos, tensors, strict=False)
        )


class _SourceNode:
    def __init__(self, call: _Call, writes: Sequence[str]) -> None:
        self._call = call
        self._writes = writes

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return self._call.run(self._writes, feed)

    def close(self) -> None:
        """Nothing is held that the source does not hold."""


def _operator_calls(on_call: Callable[[Any, Any, Any, Any], None]) -> Any:
    """Report every call of an operator inside the block: the operator, its arguments and its result."""

    def watched(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = operator(*arguments, **options)
        if find_torch(operator) is not None:
            on_call(operator, arguments, options, result)
        return result

    return operators_called_by(watched)


def _tensors(result: Any) -> list[torch.Tensor]:
    values = result if isinstance(result, (tuple, list)) else [result]
    return [value for value in values if isinstance(value, torch.Tensor)]


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu()
    result: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return result
