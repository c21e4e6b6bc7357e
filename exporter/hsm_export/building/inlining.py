"""Inline function bodies so that every node still tells which mixer it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def inline_named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its function bodies inlined and a name for each node of theirs.

    A body's nodes have no names, and inlining leaves it so. Named after their call, such as `layers.3.mixer.scores`,
    they make the parser's errors and the engine's layer names readable.

    Args:
        model: a model whose calls of functions are named.
    """
    from ..opset import inline

    functions = {(function.domain, function.name) for function in model.functions}
    callers = {
        output: node.name
        for node in model.graph.node
        if (node.domain, node.op_type) in functions
        for output in node.output
    }
    inlined = inline(model)
    caller = ""
    # A body's last node makes a result of its call, so walking backwards tells the call of each node before it.
    for node in reversed(inlined.graph.node):
        caller = next((callers[output] for output in node.output if output in callers), caller)
        if not node.name and node.output:
            node.name = f"{caller}.{node.output[0].partition('__')[0]}"
    return inlined
