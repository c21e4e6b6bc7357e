"""Which nodes of a file are which modules and operators of its PyTorch source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsm_operators import find

from ...runtimes.runtime import RunContext
from ...runtimes.torch_module import TorchModuleRunner, to_array
from ...runtimes.tracing import watch_operators
from ...validation.running import quiet
from .graph import LayerGraph, node_name
from .spool import Spool

Array = NDArray[Any]


@dataclass(frozen=True)
class Unit:
    """Nodes that together are one module, or one operator, of the source.

    Attributes:
        name: the module's path, or the node's name.
        operator: the module's class, or the operator.
        indices: positions of the nodes.
        reads: the tensors that come from outside and depend on the graph's inputs.
        writes: the tensors that leave, in the order of the operator's results; one of a module.
        single: whether it is one mixer operator.
    """

    name: str
    operator: str
    indices: tuple[int, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    single: bool

    def argument(self, position: int) -> str:
        """Name under which the source's argument of that position is spooled."""
        return f"{self.name}\0{self._kind}\0{position}"

    def result(self, position: int = 0) -> str:
        """Name under which the source's own result is spooled."""
        return f"{self.name}\0{self._kind}\0result {position}"

    @property
    def _kind(self) -> str:
        """Tell a module from the operator inside it: both may have one name."""
        return "node" if self.single else "module"


def align(graph: LayerGraph, module: torch.nn.Module) -> tuple[Unit, ...]:
    """Return the operators and modules of a source that can be found in the graph, in graph order, inner ones first.

    The exporter names nodes after the modules that they come from, and the n-th operator's node is the n-th call.
    """
    nodes = graph.model.graph.node
    names = [node_name(node, index) for index, node in enumerate(nodes)]
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            members.setdefault(".".join(parts[:length]), []).append(index)
    units = []
    for index, node in enumerate(nodes):
        if find(node.domain, node.op_type) is not None:
            reads, _ = graph.borders([index])
            units.append(Unit(names[index], node.op_type, (index,), reads, tuple(node.output), True))
    for path, part in module.named_modules():
        indices = tuple(members.get(path, ())) if path else ()
        reads, writes = graph.borders(indices)
        if indices and len(writes) == 1 and reads:
            units.append(Unit(path, type(part).__name__, indices, reads, writes, False))
    return tuple(sorted(units, key=lambda unit: (unit.indices[-1], len(unit.indices), not unit.single)))


def record(
    context: RunContext, precision: str, graph: LayerGraph, feed: Mapping[str, Array], spool: Spool
) -> tuple[Unit, ...]:
    """Run the source once and spool what goes into and comes out of its modules and operators.

    Results are stored under the names of the file's tensors too, where they have the same shape.

    Args:
        context: what is run; it has a source.
        precision: "fp64", or the file's.
        graph: the file's graph.
        feed: the inputs.
        spool: where to.

    Returns:
        The units that were seen exactly once.
    """
    for name, array in feed.items():
        spool.write(name, np.asarray(array))
    with quiet(), TorchModuleRunner(context, precision, "torch") as runner:
        units = align(graph, runner.module)
        seen = _watch(runner, units, feed, spool)
    return tuple(unit for unit in units if seen.get((unit.name, unit.single)) == 1)


def _watch(runner: Any, units: Sequence[Unit], feed: Mapping[str, Array], spool: Spool) -> dict[tuple[str, bool], int]:
    """Run the source with hooks; return how often each unit was called."""
    seen: dict[tuple[str, bool], int] = {}
    operators = iter([unit for unit in sorted(units, key=lambda unit: unit.indices) if unit.single])
    modules = {unit.name: unit for unit in units if not unit.single}

    def store(unit: Unit, arguments: Sequence[Any], results: Sequence[Any]) -> None:
        key = unit.name, unit.single
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            return
        for position, value in enumerate(arguments):
            if isinstance(value, torch.Tensor):
                spool.write(unit.argument(position), to_array(value))
        for position, value in enumerate(results):
            spool.write(unit.result(position), to_array(value))
            spool.write(unit.writes[position], to_array(value))

    def on_call(arguments: Sequence[Any], results: list[torch.Tensor]) -> None:
        unit = next(operators, None)
        if unit is not None and len(results) == len(unit.writes):
            store(unit, arguments, results)

    def hook(unit: Unit) -> Any:
        def after(module: torch.nn.Module, arguments: Any, result: Any) -> None:
            first = result[0] if isinstance(result, (tuple, list)) and result else result
            if isinstance(first, torch.Tensor):
                store(unit, arguments, [first])

        return after

    parts = dict(runner.module.named_modules())
    handles = [parts[name].register_forward_hook(hook(unit)) for name, unit in modules.items()]
    try:
        with watch_operators(on_call):
            outputs = runner.infer(dict(feed), check_inputs=False)
    finally:
        for handle in handles:
            handle.remove()
    for name, array in outputs.items():
        spool.write(name, np.asarray(array))
    return seen
