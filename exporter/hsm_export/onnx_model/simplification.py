"""Make a graph smaller without changing what it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsm_operators import find

if TYPE_CHECKING:
    import onnx_ir as ir

_CALL = "call"


def simplify(model: ir.Model, weights: set[str]) -> None:
    """Fold shapes and constants, never weights, and compute what is equal once; in place.

    Args:
        model: a traced model.
        weights: names of the initialisers that are weights.
    """
    import onnx_ir.passes.common as common
    from onnxscript import optimizer, rewriter

    def should_fold(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    for _ in range(2):
        optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=should_fold)
        rewriter.rewrite(model)
    for simplify in (
        common.RemoveUnusedNodesPass(),
        common.IdentityEliminationPass(),
        _merge_equal_nodes,
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        simplify(model)
    _merge_constants(model.graph, weights)
    _merge_equal_nodes(model)  # equal constants make more nodes equal


def _merge_equal_nodes(model: ir.Model) -> None:
    """Compute what is equal once, but keep each call of an operator that routes: they are counted against PyTorch's."""
    import onnx_ir as ir
    import onnx_ir.passes.common as common

    routed = [node for node in model.graph if is_routed(node)]
    for index, node in enumerate(routed):
        node.attributes[_CALL] = ir.AttrInt64(_CALL, index)
    common.CommonSubexpressionEliminationPass()(model)
    for node in routed:
        del node.attributes[_CALL]


def is_routed(node: ir.Node) -> bool:
    """Say whether a node makes a choice that validation watches, such as that of experts."""
    operator = find(node.domain, node.op_type)
    return operator is not None and operator.routing is not None


def _merge_constants(graph: ir.Graph, weights: set[str]) -> None:
    """Keep one of equal small constants; weights are never merged, they keep their names."""
    seen: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if value.name in weights or tensor is None or tensor.size > 64:
            continue
        key = (tensor.dtype.name, tuple(tensor.shape.numpy()), tensor.tobytes())
        first = seen.setdefault(key, value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[value.name or ""]
