"""Splits of a dimension whose size is dynamic, as slices: torch.onnx makes sequences of them, and then fails."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def with_slices(program: ExportedProgram) -> None:
    """Rewrite `chunk` and `split` of dynamic sizes in a traced program, in place."""
    import torch

    aten = torch.ops.aten
    graph = program.graph
    changed = False
    for node in list(graph.nodes):
        if node.target not in (aten.chunk.default, aten.split.Tensor):
            continue
        source, given, *rest = node.args
        dim = rest[0] if rest else node.kwargs.get("dim", 0)
        if not isinstance(source.meta["val"].shape[dim], torch.SymInt):
            continue
        picked = [user for user in node.users if user.target is operator.getitem]
        if len(picked) != len(node.users):
            continue
        meta = {key: value for key, value in node.meta.items() if key != "val"}
        with graph.inserting_before(node):

            def call(target: Any, *args: Any, meta: Any = meta) -> Any:
                made = graph.call_function(target, args)
                made.meta.update(meta)
                return made

            size = given
            if node.target is aten.chunk.default:
                more = call(operator.add, call(aten.sym_size.int, source, dim), given - 1)
                size = call(operator.floordiv, more, given)
            for user in picked:
                index = user.args[1]
                first = call(operator.mul, size, index) if index else 0
                part = call(aten.slice.Tensor, source, dim, first, call(operator.mul, size, index + 1))
                part.meta["val"] = user.meta["val"]
                user.replace_all_uses_with(part)
                graph.erase_node(user)
        graph.erase_node(node)
        changed = True
    if changed:
        program.graph_module.recompile()
