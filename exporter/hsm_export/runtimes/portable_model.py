"""A file as runtimes take it that know neither functions nor operators of ours."""

from __future__ import annotations

from pathlib import Path

import onnx


def portable_bytes(model: onnx.ModelProto, folder: Path) -> bytes:
    """Return a graph in ONNX's own operators alone, with its weights, as the bytes of a file.

    Args:
        model: the graph; its external data is not loaded, and it is left as it is.
        folder: the directory that its external data is relative to.
    """
    import onnx_ir as ir

    from ..exporting.portable import make_portable

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    onnx.load_external_data_for_model(whole, str(folder))
    if not whole.functions:
        return bytes(whole.SerializeToString())
    graph = ir.from_proto(whole)
    assert isinstance(graph, ir.Model)
    make_portable(graph, {tensor.name for tensor in whole.graph.initializer})
    return bytes(ir.to_proto(graph).SerializeToString())
