"""From a module to the finished graph: traced, named, in the precision that was asked for, with function bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from hsm_operators import find

from ..errors import BadInputError
from ..formats.tensor import InputSpec
from .inputs import Border

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import nn

    from ..formats.state_spec import StateSpec
    from ..torch_model.source_call import Keys, SourceCall
    from .source import Source
    from .wide_nodes import WideNodes


@dataclass(frozen=True)
class FloatGraph:
    """A module's graph, in float32 or float64, under its final names, without function bodies.

    Attributes:
        model: the graph; its initialisers still refer to the module's tensors.
        inputs: its inputs.
        call: how its source is called.
        parameters: names of the initialisers that are trained weights.
        relations: which sizes belong together (see `relations`).
    """

    model: ir.Model
    inputs: tuple[InputSpec, ...]
    call: SourceCall
    parameters: set[str]
    relations: tuple[str, ...]


def float_graph(source: Source) -> FloatGraph:
    """Trace a module.

    Raises:
        BadInputError: it cannot be traced or translated, or is quantised.
    """
    from .cleaning import clean
    from .finishing import refuse_narrow, refuse_quantised
    from .float64_forms import exact_numbers
    from .relations import relations
    from .tracing import trace

    traced = trace(source.module, source.arguments)
    model = traced.model
    refuse_quantised(model)
    refuse_narrow(model, source.name)
    parameters = {name for name, _ in source.module.named_parameters(remove_duplicate=False)}
    buffers = {name for name, _ in source.module.named_buffers(remove_duplicate=False)}
    names = source.output_names or output_names(traced.outputs, {spec.name for spec in source.arguments.inputs})
    inputs = clean(model, traced.inputs, names, parameters | buffers)
    exact_numbers(model, traced.numbers, parameters | buffers)
    call = replace(source.arguments.call, outputs=dict(zip(names, traced.outputs, strict=True)))
    return FloatGraph(model, inputs, call, parameters, relations(traced.guards, inputs))


def output_names(found: Sequence[Keys], taken: set[str]) -> tuple[str, ...]:
    """Return names of the outputs: the keys that lead to them, else "output" or "output_0", "output_1" and so on."""
    names: list[str] = []
    for index, keys in enumerate(found):
        texts = [position for position, key in enumerate(keys) if isinstance(key, str)]
        name = "_".join(map(str, keys[texts[0] :])) if texts else "output" if len(found) == 1 else f"output_{index}"
        while name in taken or name in names:
            name += "_output"
        names.append(name)
    return tuple(names)


def finished_graph(
    source: Source, precision: str, plan: WideNodes | None = None
) -> tuple[ir.Model, tuple[InputSpec, ...]]:
    """Return the graph that is written, and its inputs.

    Args:
        source: the module.
        precision: "fp32", "fp16", "bf16" or "fp64".
        plan: which nodes stay float32; None leaves that to the rule by operator type.

    Raises:
        BadInputError: the module cannot be exported, or the plan names a node that its graph does not have.
    """
    from .bodies import add_bodies
    from .finishing import describe
    from .precision import convert

    graph = float_graph(source)
    model = graph.model
    if plan is not None:
        plan.require_nodes({node.name or "" for node in model.graph})
    if precision == "fp64":
        _refuse_mixers(model)
    elif precision != "fp32":
        listed = None if plan is None else plan.names
        convert(
            model, precision, graph.parameters, carried(source, "precision"), listed, carried(source, "accumulator")
        )
    if source.state is not None:
        source = replace(source, state=_with_in_place(source.state, model))
    add_bodies(model)
    describe(model, source, graph.inputs, graph.call, precision, plan)
    if graph.relations:
        model.metadata_props["hsm_export.relations"] = json.dumps(graph.relations)
    return model, graph.inputs


def _refuse_mixers(model: ir.Model) -> None:
    """Refuse operators whose bodies compute in float32 in a file in float64."""
    for node in model.graph.all_nodes():
        if find(node.domain, node.op_type) is not None:
            raise BadInputError(
                f"{node.name} is {node.domain}:{node.op_type}, which has no float64",
                "export module.float(), or choose another precision",
            )


def all_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters and buffers of a module under all their names."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def carried(source: Source, border: Border) -> set[str]:
    """Return the names of the inputs and outputs that carry states whose type is that of the border."""
    if source.state is None:
        return set()
    own = {spec.name for spec in source.arguments.inputs if spec.border == border}
    return {name for t in source.state.tensors if t.past in own for name in (t.past, t.present)}


def _with_in_place(state: StateSpec, model: ir.Model) -> StateSpec:
    """Say which tensors the kernels of the graph's own operators update in place, whatever runtime they run in."""
    import onnx
    import onnx_ir as ir

    from hsm_operators import DOMAIN

    from ..onnx_model.in_place import updated_in_place

    graph = onnx.GraphProto(node=[ir.serde.serialize_node(node) for node in model.graph])
    found = updated_in_place(graph, state, fused=(DOMAIN,), standard=False)
    tensors = tuple(structs.replace(tensor, in_place=tensor.past in found) for tensor in state.tensors)
    return structs.replace(state, tensors=tensors)


def routed_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the graph's operators that choose, such as experts, in order, which is PyTorch's call order."""
    from ..onnx_model.simplification import is_routed

    return [node for node in model.graph if is_routed(node)]


def active_counts(model: ir.Model) -> list[int]:
    """Return how many each of the `routed_nodes` chooses."""
    return [_active(node) for node in routed_nodes(model)]


def _active(node: ir.Node) -> int:
    operator = find(node.domain, node.op_type)
    assert operator is not None and operator.routing is not None
    return node.attributes[operator.routing.active].as_int()


def feed_of(model: ir.Model, feeds: Mapping[str, Any], masks: Sequence[Any]) -> dict[str, Any]:
    """Add the choice of experts to a run's inputs, under the names that instrumenting the file gives them."""
    from ..runtimes.routing import RoutedNode

    feed = dict(feeds)
    for node, mask in zip(routed_nodes(model), masks, strict=True):
        feed[RoutedNode(node.name or "", _active(node)).mask] = mask
    return feed
