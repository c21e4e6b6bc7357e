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

    Bounds of one dimension and equations are left out: the former are lengths that a model knows of, the latter make
    two dimensions one.

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
        if isinstance(tree, ast.Compare) and isinstance(tree.ops[0], _ORDERS) and len(names(text)) > 1:
            yield _plain(tree)


def _plain(tree: ast.Compare) -> str:
    """Return a comparison, `a + -1 * b <= 0` as `a <= b`."""
    left, right = tree.left, tree.comparators[0]
    zero = isinstance(right, ast.Constant) and right.value == 0
    if zero and isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
        term = ast.unparse(left.right).replace(" ", "")
        if re.fullmatch(r"-1\*\w+", term):
            return ast.unparse(ast.Compare(left.left, tree.ops, [ast.Name(term.removeprefix("-1*"))]))
    return ast.unparse(tree)
