"""Calls of operators by example: sizes and attributes for tests and reports. A family's are in its `cases.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import expression
from .operator import Operator

_MIRRORED = {ast.Eq: ast.Eq, ast.GtE: ast.LtE, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.Lt: ast.Gt}
# What makes a size, X, right, by how the rule compares it with something else, Y.
_RIGHT = {
    ast.Eq: "{Y}",
    ast.GtE: "max({X}, {Y})",
    ast.Gt: "max({X}, {Y} + 1)",
    ast.LtE: "min({X}, {Y})",
    ast.Lt: "min({X}, {Y} - 1)",
}


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Attributes:
        operator: the operator.
        sizes: by dimension; those that a rule fixes by the others may be left out.
        attributes: the values of all attributes.
        ranges: for float inputs of which normally distributed numbers would leave the operator's domain, the least and
            the largest number.
        starts: for such inputs, in place of a range, the number that starts each row of the last axis; the rest is 0.
    """

    operator: Operator
    sizes: Mapping[str, int]
    attributes: Mapping[str, float | tuple[int, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name, attributes = self.operator.qualified_name, {a.name for a in self.operator.attributes}
        missing = set(self.operator.sizes) - set(self.all_sizes)
        if missing or set(self.attributes) != attributes:
            raise ValueError(f"a case of {name} needs the sizes {sorted(missing)} and the attributes {attributes}")

    @property
    def label(self) -> str:
        """What names the case in a report: the sizes that it gives, and the attributes that are numbers."""
        numbers = {a.name: self.attributes[a.name] for a in self.operator.attributes if a.type == "int"}
        flags = {a.name for a in self.operator.attributes if a.is_flag}
        shown = dict(self.sizes) | {name: value for name, value in numbers.items() if name not in flags}
        return " ".join(f"{name}={value}" for name, value in shown.items())

    @property
    def all_sizes(self) -> dict[str, int]:
        """The sizes of all dimensions, after what the rules make of them."""
        values: dict[str, Any] = {**self.attributes, **self.sizes}
        for dimension, text in adjustments(self.operator):
            if expression.names(text) <= set(values):
                values[dimension] = expression.evaluate(text, values)
        return {name: values[name] for name in self.operator.sizes if name in values}


@dataclass(frozen=True)
class Traffic:
    """What all launches of a CUDA kernel move in one call.

    Attributes:
        cache_bytes: through the second-level cache, read and written by all blocks.
        kept: bytes that it leaves in the workspace for the next kernel.
        flops: of the definition's products that it makes, tiles filled up.
    """

    cache_bytes: float
    kept: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True)
class TensorLoop:
    """The loop of a CUDA kernel that has most of its products on tensor cores.

    Attributes:
        products: of the tensor cores for one of the definition's; 2 where an operand counts as two numbers.
        trips: 0 where the compiled loop is the innermost one, else how often the loop around it passes that.
    """

    products: float = 1.0
    trips: int = 0


def adjustments(operator: Operator) -> Iterator[tuple[str, str]]:
    """Yield dimensions, and expressions that make their sizes satisfy a rule: ("E", "max(E, k)") for "k <= E".

    A rule that compares no dimension with something else, or its remainder with 0, yields none.
    """
    for rule in operator.rules:
        yield from _adjustments(operator, expression.parse(rule.condition))


def _adjustments(operator: Operator, node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for part in node.values:
            yield from _adjustments(operator, part)
    if not isinstance(node, ast.Compare):
        return
    left, right, kind = node.left, node.comparators[0], type(node.ops[0])
    for size, other, compared in ((left, right, kind), (right, left, _MIRRORED.get(kind))):
        if _is_size(operator, size) and compared in _RIGHT:
            yield _adjusted(size, other, _RIGHT[compared])
            return
    if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) and kind is ast.Eq:
        is_multiple = _is_size(operator, left.left) and ast.unparse(right) == "0"
        yield from [_adjusted(left.left, left.right, "{X} + ({Y} - {X} % ({Y})) % ({Y})")] * is_multiple


def _is_size(operator: Operator, node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in operator.sizes


def _adjusted(size: ast.expr, other: ast.expr, form: str) -> tuple[str, str]:
    name = ast.unparse(size)
    return name, form.format(X=name, Y=ast.unparse(other))
