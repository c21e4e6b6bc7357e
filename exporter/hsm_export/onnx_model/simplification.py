"""Make a graph smaller without changing what it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hsm_operators import find

from ..alone import ALONE

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
        with _exact_constants():
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


@contextlib.contextmanager
def _exact_constants() -> Iterator[None]:
    """Let the rewriter take 1e-12 for 1e-12 inside the block.

    Its rules drop `x + 0` and `x * 1`, and take whatever is within 1e-8 or 1e-5 for 0 and 1: a norm's epsilon is gone.
    """
    from onnxscript import rewriter

    rules: Any = getattr(rewriter, "_DEFAULT_REWRITE_RULES", ())
    patterns = [
        value
        for rule in rules
        for node in getattr(rule, "_target_pattern", ())
        for value in node.inputs
        if hasattr(value, "_abs_tol")
    ]
    before = [(value, value._rel_tol, value._abs_tol) for value in patterns]
    with ALONE:
        for value in patterns:
            value._rel_tol = value._abs_tol = 0.0
        try:
            yield
        finally:
            for value, relative, absolute in before:
                value._rel_tol, value._abs_tol = relative, absolute


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
