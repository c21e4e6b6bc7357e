"""Which way inputs take through a file's control flow: the graph without it, and what no case enters.

The branches that are taken and the iterations that are made stand in the place of If, Loop and Scan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..onnx_model.control_flow import named, unrolled
from ..onnx_model.control_nodes import has_control_flow, is_control, ran, watched
from ..onnx_model.nodes import nodes_of
from ..runtimes import get
from .running import run

if TYPE_CHECKING:
    import onnx

    from ..runtimes.runtime import RunContext, Runtime

Feed = Mapping[str, NDArray[Any]]

# Nodes that may stand in the place of control flow, and graphs inside graphs.
_MOST_NODES, _DEEPEST = 2000, 16
_NAMED = 5  # graphs that a note names
_ITERATION = re.compile(r"\[\d+(…\d+)?\]$")


@dataclass(frozen=True)
class TakenPath:
    """What one set of inputs does.

    Attributes:
        model: the model without the control flow that could be taken apart.
        entered: paths of the graphs that ran, such as `cond/then_branch` and `decoder/body/cond/else_branch`.
        opaque: paths of the graphs of which it is not known what ran in them.
    """

    model: onnx.ModelProto
    entered: frozenset[str]
    opaque: tuple[str, ...]


def taken_path(context: RunContext, feed: Feed) -> RunContext:
    """Return a context whose model has no control flow on these inputs, as far as it can be taken apart.

    The file in float64 decides which way it goes.

    Args:
        context: what is run; it is returned as it is where there is nothing to take apart.
        feed: the inputs.
    """
    if not has_control_flow(context.model):
        return context
    path = _followed(context, feed, get("onnx64"))
    return replace(context, model=path.model) if path.entered else context


def unentered(context: RunContext, feeds: Sequence[Feed]) -> list[str]:
    """Return a note on the branches and bodies that no inputs enter, so that nothing in them is judged; or none.

    Args:
        context: what is run.
        feeds: all inputs.
    """
    from hsm_operators import inline

    context = replace(context, model=inline(context.model, known=False))
    if not has_control_flow(context.model):
        return []
    fast = get("ort")
    runtime = fast if fast.available() is None else get("onnx64")
    paths = [_followed(context, feed, runtime) for feed in feeds]
    entered = frozenset[str]().union(*(path.entered for path in paths))
    opaque = {name for path in paths for name in path.opaque}
    model = named(context.model)
    sizes = dict(_graphs(model.graph, model))
    left = [name for name in sizes if name not in entered and not any(name.startswith(f"{top}/") for top in opaque)]
    outer = [name for name in left if not any(name.startswith(f"{other}/") for other in left)]
    if not outer:
        return []
    some = [f"{name} ({sizes[name]} node{'s' * (sizes[name] != 1)})" for name in outer[:_NAMED]]
    more = [f"{len(outer) - _NAMED} more"] if len(outer) > _NAMED else []
    return [f"not judged, as no case enters it: {', '.join([*some, *more])}; --inputs takes inputs that do"]


def _followed(context: RunContext, feed: Feed, runtime: Runtime) -> TakenPath:
    """Follow inputs from level to level of the control flow; what cannot be watched stays as it is."""
    model, kept = named(context.model), tuple[str, ...]()
    entered, opaque = set[str](), set[str]()
    for depth in range(_DEEPEST + 1):
        room = _MOST_NODES - len(model.graph.node) + len(context.model.graph.node)
        seen = watched(model, kept)
        if not seen.outputs:
            break
        names = {index: model.graph.node[index].name for index in seen.outputs}
        try:
            if room <= 0 or depth == _DEEPEST:
                raise ValueError("too many nodes, or too deep")
            results = run(runtime, replace(context, model=seen.model), [dict(feed)])[0][1][0]
            outputs = {index: np.asarray(results[name]) for index, name in seen.outputs.items()}
        except Exception:  # runtimes raise what they like
            opaque.update(_plain(name) for name in names.values())
            break
        graphs = {index: ran(model.graph.node[index], output) for index, output in outputs.items()}
        entered.update(f"{_plain(names[index])}/{graph}" for index, graph in graphs.items() if graph)
        model, more = unrolled(model, outputs, room)
        empty = {names[index] for index, graph in graphs.items() if not graph}
        opaque.update(_plain(name) for name in more if name not in empty)
        kept += more
    return TakenPath(model, frozenset(entered), tuple(opaque))


def _plain(path: str) -> str:
    """Return the path of a node or graph without the numbers of iterations: `loop/body[3]/cond` is `loop/body/cond`."""
    return "/".join(_ITERATION.sub("", part) for part in path.split("/"))


def _graphs(graph: onnx.GraphProto, model: onnx.ModelProto, outside: str = "") -> Iterator[tuple[str, int]]:
    """Yield the path of every graph inside a graph that can be watched, and how many nodes it has."""
    for node in graph.node:
        if not is_control(node, model):
            continue
        for attribute in node.attribute:
            if attribute.HasField("g"):
                path = _plain(f"{outside}{node.name}/{attribute.name}")
                yield path, sum(1 for _ in nodes_of(attribute.g.node))
                yield from _graphs(attribute.g, model, f"{path}/")
