"""Which sizes belong together: where a module's code takes one of two ways by sizes, the file holds the one it took."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

from hsm_operators.expression import ExpressionError, names, parse

from ..formats.tensor import InputSpec

_SIZE = re.compile(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def relations(guards: Iterable[str], inputs: Sequence[InputSpec]) -> tuple[str, ...]:
    """Return the comparisons of dynamic dimensions that a trace holds for, such as "length <= mask_length".

    Left out are bounds of one dimension, which are lengths that a model knows of; equations, which make two dimensions
    one; and what torch asks of numbers of elements, which no way of the code depends on.

    Args:
        guards: what torch.export asks of sizes, in Python.
        inputs: the inputs, in the order in which they were traced.
    """
    return tuple(dict.fromkeys(_comparisons(guards, inputs)))


def _comparisons(guards: Iterable[str], inputs: Sequence[InputSpec]) -> Iterator[str]:
    def size(match: re.Match[str]) -> str:
        shape = inputs[int(match[1])].shape
        return str(shape[int(match[2])])

    for guard in guards:
        text = _SIZE.sub(size, guard)
        try:
            tree = parse(text)
        except ExpressionError:
            continue  # of values, or with what sizes are seldom made of
        if isinstance(tree, ast.Compare) and isinstance(tree.ops[0], _ORDERS):
            comparison = _plain(tree)
            if _compares_sizes(comparison):
                yield comparison


def _compares_sizes(text: str) -> bool:
    """Say whether other dimensions stand on one side than on the other, none multiplied by another or divided."""
    tree = parse(text)
    assert isinstance(tree, ast.Compare)
    left, right = (names(ast.unparse(side)) for side in (tree.left, tree.comparators[0]))
    parts = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
    divided = any(isinstance(node.op, (ast.FloorDiv, ast.Mod)) for node in parts)
    squared = any(
        isinstance(node.op, ast.Mult) and names(ast.unparse(node.left)) and names(ast.unparse(node.right))
        for node in parts
    )
    return bool(left and right and not left & right) and not divided and not squared


def _plain(tree: ast.Compare) -> str:
    """Return a comparison, `a + -1 * b <= 0` as `a <= b`."""
    left, right = tree.left, tree.comparators[0]
    zero = isinstance(right, ast.Constant) and right.value == 0
    if zero and isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
        term = ast.unparse(left.right).replace(" ", "")
        if re.fullmatch(r"-1\*\w+", term):
            return ast.unparse(ast.Compare(left.left, tree.ops, [ast.Name(term.removeprefix("-1*"))]))
    return ast.unparse(tree)
