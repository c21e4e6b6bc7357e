"""Let ONNX Runtime's CPU provider run bfloat16 models: it has almost no kernels of that type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dtypes import BY_PRECISION

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


# These have kernels for every type: they convert, read a shape, or move numbers about.
_CONVERTS = frozenset({"Cast", "CastLike", "Constant", "ConstantOfShape", "Identity", "Shape", "Size"})
_MOVES = frozenset(
    {"Concat", "Flatten", "Gather", "Reshape", "ScatterND", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
_RUNS_ANYWAY = _CONVERTS | _MOVES


def widen_bfloat16(model: onnx.ModelProto, borders: bool = False, low: str = "BFLOAT16") -> onnx.ModelProto:
    """Return an equal model whose standard operators compute in float32 and round each result to bfloat16.

    Casts are put around every standard node that reads or writes bfloat16. Nodes of other domains stay as they are:
    the bodies of domain `hsm` cast to float32 themselves. A model without bfloat16 is returned unchanged.

    Args:
        model: the model; large weights may be external data, which is not read.
        borders: make bfloat16 inputs and outputs of the graph float32 too, which holds every bfloat16 exactly:
            ONNX Runtime's Python interface exchanges no bfloat16 arrays.
        low: "FLOAT16" does the same to float16 models, where ONNX Runtime otherwise keeps float32 between neighbours
            for which it has no float16 kernels.
    """
    import onnx
    import onnx_ir as ir

    kind = ir.DataType[low]
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    changed = _widen_borders(inferred.graph, kind) if borders else False
    for graph in [inferred.graph, *inferred.graph.subgraphs()]:
        casts: dict[ir.Value, ir.Value] = {}
        for node in list(graph):
            if node.domain == "" and node.op_type not in _RUNS_ANYWAY:
                changed |= _widen_inputs(node, casts, kind) | _narrow_outputs(node, kind)
    return ir.to_proto(inferred) if changed else model


def runnable(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return a graph of a precision in a form that ONNX Runtime's CPU provider runs, bfloat16 borders as float32."""
    borders = (*model.graph.input, *model.graph.output)
    low = BY_PRECISION["bf16"].onnx
    has_low = precision == "bf16" or any(value.type.tensor_type.elem_type == low for value in borders)
    return widen_bfloat16(model, borders=True) if has_low else model


def _widen_borders(graph: ir.Graph, low: ir.DataType) -> bool:
    """Turn the graph's low-precision inputs and outputs into float32 ones."""
    import onnx_ir as ir

    changed = False
    for value in graph.inputs:
        if value.dtype == low:
            readers = tuple(value.uses())
            value.dtype = ir.DataType.FLOAT
            narrow = _cast(value, low, f"{value.name}.narrow", graph[0], before=True)
            for reader, index in readers:
                reader.replace_input_with(index, narrow)
            changed = True
    for index, value in enumerate(graph.outputs):
        producer = value.producer()
        if value.dtype == low and producer is not None:
            name, value.name = value.name, f"{value.name}.narrow"
            wide = _cast(value, ir.DataType.FLOAT, f"{name}.widened", producer, before=False)
            wide.name = name
            graph.outputs[index] = wide
            changed = True
    return changed


def _widen_inputs(node: ir.Node, casts: dict[ir.Value, ir.Value], low: ir.DataType) -> bool:
    """Feed the node float32 copies of its low-precision inputs; one Cast serves all readers in the same graph."""
    import onnx_ir as ir

    changed = False
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != low:
            continue
        if value not in casts:
            casts[value] = _cast(value, ir.DataType.FLOAT, f"{value.name}.wide", node, before=True)
        node.replace_input_with(index, casts[value])
        changed = True
    return changed


def _narrow_outputs(node: ir.Node, low: ir.DataType) -> bool:
    """Round the node's low-precision outputs after it has computed them in float32."""
    import onnx_ir as ir

    changed = False
    for value in node.outputs:
        if value.dtype != low:
            continue
        readers = tuple(value.uses())
        graph = node.graph
        assert graph is not None
        name = value.name
        value.dtype = ir.DataType.FLOAT
        value.name = f"{name}.unrounded"
        rounded = _cast(value, low, f"{name}.rounded", node, before=False)
        rounded.name = name
        for reader, index in readers:
            reader.replace_input_with(index, rounded)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = rounded
        changed = True
    if changed and "dtype" in node.attributes and node.attributes["dtype"].as_int() == low:
        node.attributes["dtype"] = ir.AttrInt64("dtype", ir.DataType.FLOAT)
    return changed


def _cast(value: ir.Value, dtype: ir.DataType, name: str, node: ir.Node, *, before: bool) -> ir.Value:
    """Insert a Cast of `value` beside `node` and return its output."""
    import onnx_ir as ir

    cast = ir.node("Cast", [value], attributes={"to": dtype}, name=name)
    cast.outputs[0].name = name
    cast.outputs[0].dtype = dtype
    cast.outputs[0].shape = value.shape
    graph = node.graph
    assert graph is not None
    if before:
        graph.insert_before(node, cast)
    else:
        graph.insert_after(node, cast)
    return cast.outputs[0]
