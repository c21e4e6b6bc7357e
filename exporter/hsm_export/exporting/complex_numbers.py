"""Operators on complex tensors that torch.onnx cannot write, as operators on their real and imaginary parts.

In ONNX a complex tensor (...) is a real one (..., 2). torch.onnx knows products, sums and Fourier transforms of such,
but not all that moves numbers or makes complex ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node


def with_real_parts(program: ExportedProgram) -> None:
    """Rewrite a traced program's operators on complex tensors that torch.onnx does not know, in place."""
    rewritten = _table()
    graph = program.graph
    changed = False
    for node in list(graph.nodes):
        rewrite = rewritten.get(node.target) if node.op == "call_function" and _has_complex(node) else None
        if rewrite is None:
            continue
        with graph.inserting_before(node):
            before = set(graph.nodes)
            result = rewrite(graph.call_function, *node.args)
        for new in graph.nodes:
            if new not in before:
                new.meta.update({key: value for key, value in node.meta.items() if key != "val"})
        result.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(result)
        graph.erase_node(node)
        changed = True
    if changed:
        program.graph_module.recompile()


def _has_complex(node: Node) -> bool:
    import torch

    values = [node.meta.get("val"), *(item.meta.get("val") for item in node.all_input_nodes)]
    return any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)


def _table() -> dict[Any, Callable[..., Node]]:
    import torch

    aten = torch.ops.aten

    def moved(operator: Any, *dims: int) -> Callable[..., Node]:
        """Return a rewriting for an operator that moves numbers; `dims` are the places of dimensions among its args."""

        def rewrite(call: Callable[..., Node], x: Node, *rest: Any) -> Node:
            given = list(rest)
            for place in dims:
                if given[place] < 0:  # counted from the end, where the parts stand now
                    given[place] -= 1
            return call(
                aten.view_as_complex.default, (call(operator, (call(aten.view_as_real.default, (x,)), *given)),)
            )

        return rewrite

    def sized(operator: Any) -> Callable[..., Node]:
        """Return a rewriting for an operator whose first argument is a list of sizes."""

        def rewrite(call: Callable[..., Node], x: Node, sizes: Any, *rest: Any) -> Node:
            last = -1 if operator is aten.expand.default else 1
            real = call(operator, (call(aten.view_as_real.default, (x,)), [*sizes, last]))
            return call(aten.view_as_complex.default, (real,))

        return rewrite

    def stacked(call: Callable[..., Node], real: Node, imaginary: Node) -> Node:
        return call(aten.view_as_complex.default, (call(aten.stack.default, ([real, imaginary], -1)),))

    def parts(call: Callable[..., Node], x: Node) -> tuple[Node, Node]:
        both = call(aten.view_as_real.default, (x,))
        return call(aten.select.int, (both, -1, 0)), call(aten.select.int, (both, -1, 1))

    def polar(call: Callable[..., Node], size: Node, angle: Node) -> Node:
        cosine, sine = call(aten.cos.default, (angle,)), call(aten.sin.default, (angle,))
        return stacked(call, call(aten.mul.Tensor, (size, cosine)), call(aten.mul.Tensor, (size, sine)))

    def exponential(call: Callable[..., Node], x: Node) -> Node:
        real, imaginary = parts(call, x)
        return polar(call, call(aten.exp.default, (real,)), imaginary)

    def absolute(call: Callable[..., Node], x: Node) -> Node:
        """Return the root of the sum of squares, which do not overflow where the root does not."""
        sizes = tuple(call(aten.abs.default, (part,)) for part in parts(call, x))
        most, least = call(aten.maximum.default, sizes), call(aten.minimum.default, sizes)
        divisor = call(aten.where.ScalarOther, (call(aten.gt.Scalar, (most, 0)), most, 1.0))
        ratio = call(aten.div.Tensor, (least, divisor))
        square = call(aten.mul.Tensor, (ratio, ratio))
        return call(aten.mul.Tensor, (most, call(aten.sqrt.default, (call(aten.add.Tensor, (square, 1.0)),))))

    def times(call: Callable[..., Node], x: Node, by: Any) -> Node:
        """Return a product; torch.onnx knows no complex constants."""
        if not isinstance(by, complex):
            return call(aten.mul.Tensor, (x, by))
        real, imaginary = (by.real, by.imag)
        if not x.meta["val"].is_complex():
            return stacked(call, call(aten.mul.Tensor, (x, real)), call(aten.mul.Tensor, (x, imaginary)))
        a, b = parts(call, x)
        return stacked(
            call,
            call(aten.sub.Tensor, (call(aten.mul.Tensor, (a, real)), call(aten.mul.Tensor, (b, imaginary)))),
            call(aten.add.Tensor, (call(aten.mul.Tensor, (a, imaginary)), call(aten.mul.Tensor, (b, real)))),
        )

    def divided(call: Callable[..., Node], x: Node, by: Any) -> Node:
        import torch.fx

        if isinstance(by, complex):
            return times(call, x, 1 / by)
        value = by.meta["val"] if isinstance(by, torch.fx.Node) else None
        if not x.meta["val"].is_complex():
            x = stacked(call, x, call(aten.zeros_like.default, (x,)))
        both = call(aten.view_as_real.default, (x,))
        if value is None or not value.is_complex():
            if value is not None and value.dim():
                by = call(aten.unsqueeze.default, (by, -1))
            return call(aten.view_as_complex.default, (call(aten.div.Tensor, (both, by)),))
        c, d = parts(call, by)
        square = call(aten.add.Tensor, (call(aten.mul.Tensor, (c, c)), call(aten.mul.Tensor, (d, d))))
        inverse = stacked(
            call,
            call(aten.div.Tensor, (c, square)),
            call(aten.neg.default, (call(aten.div.Tensor, (d, square)),)),
        )
        return call(aten.mul.Tensor, (x, inverse))

    def angle(call: Callable[..., Node], x: Node) -> Node:
        """Return the angle; ONNX's formula divides by the real part, whose zero's sign must not choose the side."""
        real, imaginary = parts(call, x)
        positive = call(aten.abs.default, (real,))
        real = call(aten.where.self, (call(aten.eq.Scalar, (real, 0)), positive, real))
        return call(aten.atan2.default, (imaginary, real))

    def multilinear(call: Callable[..., Node], factors: Sequence[Node], product: Callable[[list[Node]], Node]) -> Node:
        """Return a product of real and complex factors as sums of products of their parts."""
        choices = [parts(call, factor) if factor.meta["val"].is_complex() else (factor,) for factor in factors]
        sums: list[Node | None] = [None, None]
        for chosen in itertools.product(*(range(len(choice)) for choice in choices)):
            power = sum(chosen)  # of the imaginary unit
            term = product([choice[index] for choice, index in zip(choices, chosen, strict=True)])
            before, negative = sums[power % 2], power % 4 >= 2
            if before is None:
                sums[power % 2] = call(aten.neg.default, (term,)) if negative else term
            else:
                sums[power % 2] = call(aten.sub.Tensor if negative else aten.add.Tensor, (before, term))
        real, imaginary = sums
        assert real is not None and imaginary is not None
        return stacked(call, real, imaginary)

    def einsum(call: Callable[..., Node], equation: str, factors: Sequence[Node], *rest: Any, **_: Any) -> Node:
        return multilinear(call, factors, lambda chosen: call(aten.einsum.default, (equation, chosen)))

    def batched(call: Callable[..., Node], x: Node, y: Node) -> Node:
        return multilinear(call, (x, y), lambda chosen: call(aten.bmm.default, tuple(chosen)))

    def linear(call: Callable[..., Node], x: Node, weight: Node, bias: Node | None = None) -> Node:
        y = multilinear(call, (x, weight), lambda chosen: call(aten.linear.default, tuple(chosen)))
        return y if bias is None else call(aten.add.Tensor, (y, bias))

    return {
        aten.abs.default: absolute,
        aten.angle.default: angle,
        aten.mul.Tensor: times,
        aten.einsum.default: einsum,
        aten.bmm.default: batched,
        aten.linear.default: linear,
        aten.unsqueeze.default: moved(aten.unsqueeze.default, 0),
        aten.select.int: moved(aten.select.int, 0),
        aten.index_select.default: moved(aten.index_select.default, 0),
        aten.index.Tensor: moved(aten.index.Tensor),
        aten.expand.default: sized(aten.expand.default),
        aten.repeat.default: sized(aten.repeat.default),
        aten.polar.default: polar,
        aten.complex.default: stacked,
        aten.exp.default: exponential,
        aten.div.Tensor: divided,
    }
