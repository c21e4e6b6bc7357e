"""Turn the tracer's graph into one that people can read and that is the same in every run."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hsm_operators import find

from ..errors import UsageError
from ..formats.tensor import InputSpec
from ..onnx_model.simplification import simplify
from .dimensions import counted, indexed, tied
from .inputs import TraceInput

if TYPE_CHECKING:
    import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"


def clean(
    model: ir.Model, inputs: Sequence[TraceInput], output_names: Sequence[str], weights: set[str]
) -> tuple[InputSpec, ...]:
    """Fold constants, give everything its final name, and drop what the tracer wrote about itself; in place.

    Args:
        model: a traced model.
        inputs: what it was traced with, in the order of the graph's inputs.
        output_names: names of the outputs.
        weights: names of parameters and buffers; they stay initialisers under these names.

    Raises:
        UsageError: the number of output names is not the number of outputs.
    """
    simplify(model, weights)
    _rename_borders(model, inputs, output_names)
    specs = _name_dimensions(model, inputs)
    name_nodes(model.graph)
    _name_constants(model, weights)
    model.metadata_props.clear()
    model.doc_string = None
    strip(model.graph)
    return specs


def _rename_borders(model: ir.Model, inputs: Sequence[TraceInput], output_names: Sequence[str]) -> None:
    graph = model.graph
    assert len(graph.inputs) == len(inputs)
    if len(output_names) != len(graph.outputs):
        raise UsageError(
            f"output_names has {len(output_names)} names but the module returns {len(graph.outputs)} tensors"
        )
    taken = {spec.name for spec in inputs} | set(output_names)
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}.inner"
    for value, spec in zip(graph.inputs, inputs, strict=True):
        value.name = spec.name
    for value, name in zip(graph.outputs, output_names, strict=True):
        value.name = name


def _name_dimensions(model: ir.Model, inputs: Sequence[TraceInput]) -> tuple[InputSpec, ...]:
    """Replace the tracer's symbols (s27, also inside expressions) by `batch`, `length` and so on.

    Dimensions are one if the graph or an operator's signature needs them to be equal, or if the user gave them one name
    and their examples have one size; otherwise the later one of a name gets its input's name in front.
    """
    import onnx_ir as ir

    for value in _values(model.graph):
        if value.shape is not None:  # the tracer writes some fixed sizes as symbols
            value.shape = ir.Shape([_renamed(dim, {}) for dim in value.shape])
    names: dict[str, str] = {}
    same = tied(model)
    first: dict[str, tuple[int, bool]] = {}
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        assert value.shape is not None
        for dim, size in enumerate(value.shape):
            symbol = None if isinstance(size, int) or size.value is None else same.get(size.value, size.value)
            if symbol is not None and symbol not in names:
                wished = {**spec.dynamic, **spec.free}.get(dim, f"{spec.name}_{dim}")
                own = spec.example.shape[dim], spec.chosen
                shared = wished not in first or (spec.chosen and first[wished] == own)
                first.setdefault(wished, own)
                names[symbol] = wished if shared else f"{spec.name}_{wished}"
    names |= {symbol: names[other] for symbol, other in same.items() if other in names}
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])
    counts, places = counted(model), indexed(model)
    specs = []
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        assert value.shape is not None and value.dtype is not None
        shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
        known = counts.get(spec.name, spec.counts)
        found = InputSpec(spec.name, str(value.dtype.numpy()), shape, tuple(spec.example.shape), spec.low, spec.high)
        if spec.high is None and spec.name in places:
            found = replace(found, indexes=places[spec.name])
        elif spec.high is None and known is None:  # nothing but the example says what it may hold
            found = replace(found, seen=spec.seen, usual=spec.usual)
        specs.append(replace(found, counts=known))
    return tuple(specs)


def _renamed(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    if dim.value.isdecimal():
        return int(dim.value)
    return re.sub(r"\w+", lambda match: names.get(match[0], match[0]), dim.value)


def _values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        values += node.outputs
    return values


def name_nodes(graph: ir.Graph) -> None:
    """Name nodes after the module that they come from, and what they compute after them.

    The only mixer operator of a module has the module's own path (`layers.3.mixer`); all others add their operator's
    name (`layers.3.mixer.qkv.MatMul`), and a number from the second on.
    """
    nodes = list(graph.all_nodes())
    scopes = _scopes(nodes)
    mixers = Counter(scope for node, scope in zip(nodes, scopes, strict=True) if _is_operator(node))
    borders = {value.name for value in (*graph.inputs, *graph.outputs)}
    used: Counter[str] = Counter(name for name in borders if name is not None)
    for node, scope in zip(nodes, scopes, strict=True):
        alone = _is_operator(node) and mixers[scope] == 1 and scope
        base = scope if alone else ".".join(filter(None, (scope, node.op_type)))
        used[base] += 1
        node.name = base if used[base] == 1 else f"{base}_{used[base]}"
        for index, value in enumerate(node.outputs):
            if value.name not in borders:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}.{index}"


def _is_operator(node: ir.Node) -> bool:
    return find(node.domain, node.op_type) is not None


def _scopes(nodes: Sequence[ir.Node]) -> list[str]:
    """Return the path of the module that each node comes from, "" for the model itself.

    A node that a simplification made has no path of its own: it belongs where its first input comes from.
    """
    found: dict[ir.Node, str] = {}
    for node in nodes:
        written = node.metadata_props.get(_SCOPES)
        if written is None:
            producers = (value.producer() for value in node.inputs if value is not None)
            found[node] = next((found[producer] for producer in producers if producer in found), "")
        else:
            path = reversed(ast.literal_eval(written)[:-1])
            found[node] = next((scope for scope in path if not scope.startswith("_empty_nn_module")), "")
    return list(found.values())


def _name_constants(model: ir.Model, weights: set[str]) -> None:
    """Number the initialisers that are not weights, in the order of their first use."""
    initializers = model.graph.initializers
    order: dict[str, ir.Value] = {}
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.name in initializers and value.name not in weights:
                order.setdefault(value.name or "", value)
    for value in order.values():
        value.name = f"{value.name}.unnamed"
    for index, value in enumerate(order.values()):
        value.name = f"constant_{index}"
    kept = sorted(initializers.values(), key=lambda value: (value.name not in weights, _natural(value.name or "")))
    initializers.clear()
    for value in kept:
        initializers.add(value)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layers.2 before layers.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def strip(graph: ir.Graph) -> None:
    """Drop stack traces, file paths and scopes: they differ between machines and say nothing to a runtime."""
    for inner in (graph, *graph.subgraphs()):
        inner.metadata_props.clear()
        inner.doc_string = None
        for value in _values(inner):
            value.metadata_props.clear()
            value.doc_string = None
            if value.const_value is not None:
                value.const_value.metadata_props.clear()
                if value.const_value.doc_string:  # some kinds of tensors have none and take none
                    value.const_value.doc_string = None
        for node in inner:
            node.metadata_props.clear()
            node.doc_string = None
