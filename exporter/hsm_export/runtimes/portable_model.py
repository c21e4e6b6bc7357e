"""A graph with its weights, as runtimes take it that open a file of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx


def with_weights(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a graph whose weights are in it: the graph itself, or a copy where some are external data.

    Args:
        model: the graph; it is left as it is.
        folder: the directory that its external data is relative to.
    """
    if not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        return model
    loaded = onnx.ModelProto()
    loaded.CopyFrom(model)
    onnx.load_external_data_for_model(loaded, str(folder))
    return loaded


def portable_model(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a graph with its weights, in ONNX's own operators alone; the arguments are those of `with_weights`."""
    import onnx_ir as ir

    from ..onnx_model.portable import make_portable

    whole = with_weights(model, folder)
    if not whole.functions:
        return whole
    graph = ir.from_proto(whole)
    assert isinstance(graph, ir.Model)
    make_portable(graph, {tensor.name for tensor in whole.graph.initializer})
    return ir.to_proto(graph)


def static_model(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Return a portable graph for inputs of these sizes alone.

    Args:
        model: a graph of ONNX's own operators; it is left as it is.
        sizes: the shape of each input.
    """
    import onnx_ir as ir

    from ..onnx_model.static_shapes import floating, make_static

    graph = ir.from_proto(model)
    assert isinstance(graph, ir.Model)
    named: dict[str, int] = {}
    for value in graph.graph.inputs:
        if value.name is None or value.shape is None or value.name not in sizes:
            continue
        shape: list[int | str | None] = []
        for dim, size in zip(value.shape, sizes[value.name], strict=True):
            word = dim if isinstance(dim, int) else dim.value
            shape.append(size if word is None else word)
            if isinstance(word, str):
                named[word] = size
        value.shape = ir.Shape(shape)
    make_static(graph, named, floating(graph))
    return ir.to_proto(graph)
