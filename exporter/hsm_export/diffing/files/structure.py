"""The structural difference of two ONNX files: operators, weights, functions, inputs, outputs and metadata."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from ...errors import BadInputError
from ...onnx_model.file_operators import FileOperators
from ...onnx_model.model_file import ModelFile, open_model
from ...onnx_model.quantisation_record import plan_in
from ...onnx_model.values import tensor_of
from .matching import Graph, Matching, attribute_key, canonical, match, moved
from .results import FunctionChange, NodeChange, PropertyChange, StructureDiff
from .weight_changes import weight_changes
from .weight_streams import Weight, element_type_name

_LONGEST_TEXT = 60


def diff_structure(old: str | Path, new: str | Path, *, progress: Callable[[str], None] | None = None) -> StructureDiff:
    """Compare two ONNX files; nothing is run. Weights are read piece by piece, external ones from memory maps.

    Operators of the same name are compared with each other; others with what takes their place (see
    `graph_matching.match`).

    Args:
        old, new: the files.
        progress: is called with the name of each phase.

    Raises:
        BadInputError: a file is missing, damaged, or lacks its external data.
    """
    report = progress or (lambda phase: None)
    started = time.perf_counter()
    report("opening both files")
    try:
        files = open_model(old), open_model(new)
        return _compared(*files, report, started)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        # A stranger's file may contradict itself anywhere the checker does not look.
        raise BadInputError(f"{old} and {new} cannot be compared: {error}", "is either file damaged?") from error


def _compared(old: ModelFile, new: ModelFile, report: Callable[[str], None], started: float) -> StructureDiff:
    report("matching operators")
    graphs = _graph(old.model.graph), _graph(new.model.graph)
    matching = match(*graphs)
    nodes = tuple(node_changes(*graphs, matching))
    report("comparing weights")
    same = {name: other for name, other in matching.tensors.items() if name in graphs[0].weights}
    weights, equal = weight_changes(_weights(old), _weights(new), same, _expert_weights(new.model))
    report("comparing functions and metadata")
    return StructureDiff(
        old=str(old.path),
        new=str(new.path),
        old_bytes=old.bytes,
        new_bytes=new.bytes,
        old_nodes=len(old.model.graph.node),
        new_nodes=len(new.model.graph.node),
        nodes=nodes,
        weights=weights,
        functions=tuple(_function_changes(old.model, new.model)),
        properties=(*_border_changes(old.model, new.model, matching), *_property_changes(old, new)),
        equal_weights=equal,
        notes=(_quantised_note(new),) if new.quantised and not old.quantised else (),
        seconds=time.perf_counter() - started,
    )


def node_changes(old: Graph, new: Graph, matching: Matching) -> Iterator[NodeChange]:
    """Yield what differs between the operators of two matched graphs, in the order of the new one."""
    displaced = moved(matching.nodes)
    inverse = {other: index for index, other in matching.nodes.items()}
    for other, node in enumerate(new.nodes):
        index = inverse.get(other)
        if index is None:
            yield NodeChange("added", _name(node), operator_name(node))
            continue
        before = old.nodes[index]
        details = tuple(_details(before, node, matching.tensors))
        if index in displaced:
            details += (f"place {index} → {other}",)
        kind = "changed" if len(details) > (index in displaced) else "moved" if details else "renamed"
        if details or before.name != node.name:
            yield NodeChange(kind, _name(node), operator_name(node), _name(before), details)
    for index, node in enumerate(old.nodes):
        if index not in matching.nodes:
            yield NodeChange("removed", _name(node), operator_name(node), _name(node))


def operator_name(node: onnx.NodeProto) -> str:
    """Return an operator's name with its domain, where that is not ONNX's own."""
    name = str(node.op_type)
    return f"{node.domain}::{name}" if node.domain not in ("", "ai.onnx") else name


def _details(old: onnx.NodeProto, new: onnx.NodeProto, tensors: Mapping[str, str]) -> Iterator[str]:
    if operator_name(old) != operator_name(new):
        yield f"operator {operator_name(old)} → {operator_name(new)}"
    before, after = ({item.name: item for item in node.attribute} for node in (old, new))
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a is None or b is None or not _same_attribute(a, b, tensors):
            yield f"attribute {name}: {_value(a)} → {_value(b)}"
    for index in range(max(len(old.input), len(new.input))):
        a, b = (node.input[index] if index < len(node.input) else "" for node in (old, new))
        if (tensors.get(a, a) if a else "") != b:
            yield f"input {index}: {a or 'none'} → {b or 'none'}"
    if len(old.output) != len(new.output):
        yield f"outputs: {len(old.output)} → {len(new.output)}"


def _same_attribute(a: onnx.AttributeProto, b: onnx.AttributeProto, tensors: Mapping[str, str]) -> bool:
    if a.type == b.type == onnx.AttributeProto.GRAPH:
        return canonical(a.g, tensors) == canonical(b.g, {})
    return attribute_key(a) == attribute_key(b)


def _value(attribute: onnx.AttributeProto | None) -> str:
    """Return an attribute as short text."""
    if attribute is None:
        return "none"
    if attribute.ref_attr_name:
        return f"the function's {attribute.ref_attr_name}"
    kinds = onnx.AttributeProto
    if attribute.type == kinds.TENSOR:
        return f"tensor {element_type_name(attribute.t.data_type)} {list(attribute.t.dims)}"
    if attribute.type == kinds.GRAPH:
        return f"a graph of {len(attribute.g.node)} operators"
    if attribute.type not in (kinds.FLOAT, kinds.INT, kinds.STRING, kinds.FLOATS, kinds.INTS, kinds.STRINGS):
        return str(kinds.AttributeType.Name(attribute.type)).lower()
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, float):
        return f"{value:.6g}"  # of a float32: more digits are noise
    text: str = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _graph(graph: onnx.GraphProto) -> Graph:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    return Graph(list(graph.node), inputs, [value.name for value in graph.output], weights)


def _weights(file: ModelFile) -> dict[str, Weight]:
    return {tensor.name: Weight(tensor, file.path.parent) for tensor in file.model.graph.initializer}


def _expert_weights(model: onnx.ModelProto) -> set[str]:
    """Return the weights (H,E,...) of operators that choose among experts."""
    return {
        name
        for node, operator in FileOperators(model).nodes(model.graph)
        for port, name in zip(operator.inputs, node.input, strict=False)
        if operator.routing is not None and port.name == operator.constant
    }


def _function_changes(old: onnx.ModelProto, new: onnx.ModelProto) -> Iterator[FunctionChange]:
    before, after = ({_function_name(body): body for body in model.functions} for model in (old, new))
    for name in before.keys() - after.keys():
        yield FunctionChange("removed", name)
    for name in after.keys() - before.keys():
        yield FunctionChange("added", name)
    for name in sorted(before.keys() & after.keys()):
        a, b = before[name], after[name]
        before_graph, after_graph = (Graph(list(f.node), list(f.input), list(f.output)) for f in (a, b))
        matching = match(before_graph, after_graph)
        found = node_changes(before_graph, after_graph, matching)
        nodes = tuple(change for change in found if change.kind != "renamed")
        details = tuple(_function_details(a, b, matching))
        if nodes or details:
            yield FunctionChange("changed", name, nodes, details)


def _function_name(body: onnx.FunctionProto) -> str:
    return f"{body.domain}::{body.name}" + (f":{body.overload}" if body.overload else "")


def _function_details(a: onnx.FunctionProto, b: onnx.FunctionProto, matching: Matching) -> Iterator[str]:
    for what, before, after in (("inputs", a.input, b.input), ("outputs", a.output, b.output)):
        if len(before) != len(after):
            yield f"{what}: {len(before)} → {len(after)}"
    if [matching.tensors.get(name, name) for name in a.output] != list(b.output):
        yield "its outputs come from other operators"
    if _attributes_of(a) != _attributes_of(b):
        yield "its attributes or their defaults differ"
    if _opsets(a.opset_import) != _opsets(b.opset_import):
        yield f"operator sets {_opsets(a.opset_import)} → {_opsets(b.opset_import)}"


def _attributes_of(body: onnx.FunctionProto) -> tuple[object, ...]:
    defaults = sorted((item.name, hash(attribute_key(item))) for item in body.attribute_proto)
    return (sorted(body.attribute), defaults)


def _border_changes(old: onnx.ModelProto, new: onnx.ModelProto, matching: Matching) -> Iterator[PropertyChange]:
    """Yield inputs and outputs that are not the same; those in each other's place are the same under other names."""
    initialised = {tensor.name for model in (old, new) for tensor in model.graph.initializer}
    inputs = [{v.name: _border(v) for v in m.graph.input if v.name not in initialised} for m in (old, new)]
    outputs = [{value.name: _border(value) for value in model.graph.output} for model in (old, new)]
    same_outputs = _same_outputs(outputs[0], outputs[1], matching.tensors)
    for what, (before, after), same in (("input", inputs, matching.tensors), ("output", outputs, same_outputs)):
        found = set()
        for name, text in before.items():
            other = same.get(name, "")
            found.add(other)
            if other not in after:
                yield PropertyChange(what, name, text, None)
                continue
            if other != name:
                yield PropertyChange(f"name of {what}", name, name, other)
            if after[other] != text:
                yield PropertyChange(what, other, text, after[other])
        yield from (PropertyChange(what, name, None, text) for name, text in after.items() if name not in found)
    if [same_outputs.get(name) for name in outputs[0]] == list(outputs[1]):
        for index, name in enumerate(outputs[0]):
            if matching.tensors.get(name, name) != list(outputs[1])[index]:
                yield PropertyChange("output", list(outputs[1])[index], f"from {name}", "from another operator")


def _same_outputs(old: Iterable[str], new: Iterable[str], tensors: Mapping[str, str]) -> dict[str, str]:
    """Return which outputs are the same: of the same name, else what the same operator writes, else by place."""
    after = list(new)
    same = {name: name for name in old if name in after}
    for index, name in enumerate(old):
        if name not in same:
            other = tensors.get(name, "")
            place = after[index] if index < len(after) else ""
            same[name] = next((item for item in (other, place) if item in after and item not in same.values()), "")
    return same


def _border(value: onnx.ValueInfoProto) -> str:
    tensor = tensor_of(value)
    # A name that the file does not give would differ with the name of the tensor.
    sizes = ("?" if str(size) == f"{value.name}.{axis}" else str(size) for axis, size in enumerate(tensor.shape))
    return f"{tensor.dtype} [{', '.join(sizes)}]" if tensor.is_tensor else tensor.dtype


def _property_changes(old: ModelFile, new: ModelFile) -> Iterator[PropertyChange]:
    before, after = (_opsets(file.model.opset_import) for file in (old, new))
    yield from _changed("opset", before, after)
    yield from _changed(
        "metadata", *({item.key: item.value for item in file.model.metadata_props} for file in (old, new))
    )
    yield from _changed("file", *map(_facts, (old, new)))
    if old.model.graph.name != new.model.graph.name:
        yield PropertyChange("name of graph", "graph", old.model.graph.name, new.model.graph.name)


def _quantised_note(new: ModelFile) -> str:
    """Return what the differences to a file that is not quantised are."""
    plan = plan_in(new)
    if plan is None:
        return f"the new file is quantised ({new.quantised}): its outputs differ by what that costs"
    loss = plan.held_out.words(plan.budget.metric)
    return (
        f"the new file is quantised, {plan.bits:.2f} bits a weight within {plan.budget.text}: its outputs differ by "
        f"what that costs, {loss} on held-out inputs; `hsm-export validate {new.path} --against CHECKPOINT` judges that"
    )


def _opsets(entries: Iterable[onnx.OperatorSetIdProto]) -> dict[str, str]:
    return {entry.domain or "ai.onnx": str(entry.version) for entry in entries}


def _facts(file: ModelFile) -> dict[str, str]:
    model = file.model
    facts = {
        "IR version": str(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
    }
    return facts | ({"quantised": file.quantised} if file.quantised else {})


def _changed(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[PropertyChange]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield PropertyChange(what, name, old.get(name), new.get(name))


def _name(node: onnx.NodeProto) -> str:
    """Return a node's name; that of its result where it has none."""
    return node.name or next((name for name in node.output if name), "") or str(node.op_type)
