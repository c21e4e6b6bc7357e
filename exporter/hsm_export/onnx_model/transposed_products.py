"""Products of transposed tensors, written so that ONNX Runtime 1.31 does not crash on them in float16.

With all its optimisations it takes a Transpose of the leading axes, or one that brings the first axis to the end, into
a product in float16, and dies when the session is made. A matrix on the right multiplies each row by itself, so the
rows may be brought into their order after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def transpose_after_products(graph: ir.Graph) -> None:
    """Exchange Transpose and the product with a matrix that reads it, where rows change their order; in place."""
    for node in list(graph):
        rows = node.inputs[0] if node.op_type == "MatMul" and node.domain == "" else None
        matrix = node.inputs[1] if rows is not None else None
        maker = None if rows is None else rows.producer()
        if maker is None or maker.op_type != "Transpose" or matrix is None or matrix.shape is None:
            continue
        order = list(maker.attributes.get_ints("perm", ()))
        if matrix.shape.rank() != 2 or len(order) < 3 or order[:-2] == list(range(len(order) - 2)):
            continue
        _exchange(graph, node, maker, order)


def _exchange(graph: ir.Graph, node: ir.Node, maker: ir.Node, order: list[int]) -> None:
    """Multiply first: of axes (a, b, c) in the order (b, a, c), or (b, c, a), where (c, b, a) is multiplied."""
    import onnx_ir as ir

    *leading, last = order
    before, result = maker.inputs[0], node.outputs[0]
    assert before is not None and before.dtype is not None and result.dtype is not None
    if last == len(order) - 1:
        node.replace_input_with(0, before)
        after = leading
    else:
        leading_now = leading[::-1]
        turned = ir.node("Transpose", [before], attributes={"perm": [*leading_now, last]}, name=f"{node.name}.turned")
        turned.outputs[0].name, turned.outputs[0].dtype = f"{node.name}.turned", before.dtype
        graph.insert_before(node, turned)
        node.replace_input_with(0, turned.outputs[0])
        after = [leading_now.index(axis) for axis in leading]
    moved = ir.node("Transpose", [result], attributes={"perm": [*after, len(after)]}, name=f"{node.name}.Transpose")
    out = moved.outputs[0]
    out.dtype, out.shape, out.name = result.dtype, result.shape, result.name
    result.replace_all_uses_with(out, replace_graph_outputs=True)
    moved.replace_input_with(0, result)
    result.name, result.shape = f"{out.name}.rows", None
    graph.insert_after(node, moved)
    if not maker.outputs[0].uses() and not maker.outputs[0].is_graph_output():
        graph.remove(maker, safe=True)
