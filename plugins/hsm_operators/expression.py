"""Whole-number expressions of a specification: sizes, attributes and costs, written once for Python and C++.

An expression is Python's own notation over the operator's dimensions and attributes: `1 + d + d*(d+1)//2 == F`,
`R >= max(shifts)`, `D % len(shifts) == 0`. It may hold whole numbers, names, + - * // %, comparisons, `and`, `or`,
`a if c else b`, and the functions `min`, `max` and `len`. Nothing else is evaluated: an expression is data, not code.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Value = int | Sequence[int]

_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "/", ast.Mod: "%"}
_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_BOOLEAN = {ast.And: "&&", ast.Or: "||"}
_FUNCTIONS = ("min", "max", "len")


class ExpressionError(ValueError):
    """The text is not an expression of this language."""


@functools.cache
def parse(text: str) -> ast.expr:
    """Return the syntax tree of an expression.

    Raises:
        ExpressionError: it is not Python, or uses what the language does not have.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{text!r} is not an expression: {error.msg}") from error
    for node in ast.walk(tree):
        _check(node, text)
    return tree


def _check(node: ast.AST, text: str) -> None:
    if isinstance(node, ast.Constant):
        good = type(node.value) is int
    elif isinstance(node, ast.Call):
        good = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and bool(node.args) and not node.keywords
    elif isinstance(node, ast.UnaryOp):
        good = isinstance(node.op, ast.USub)
    elif isinstance(node, ast.Compare):
        good = len(node.ops) == 1
    else:
        kinds = (*_BINARY, *_COMPARE, *_BOOLEAN, ast.BinOp, ast.BoolOp, ast.IfExp, ast.Name, ast.Load, ast.USub)
        good = isinstance(node, kinds)
    if not good:
        raise ExpressionError(f"{text!r}: {type(node).__name__} is not part of the language of expressions")


def names(text: str) -> frozenset[str]:
    """Return the dimensions and attributes that an expression reads."""
    found = {node.id for node in ast.walk(parse(text)) if isinstance(node, ast.Name)}
    return frozenset(found - set(_FUNCTIONS))


def evaluate(text: str, values: Mapping[str, Value]) -> int:
    """Return an expression's value; a comparison is 0 or 1.

    Raises:
        KeyError: a name has no value.
        ZeroDivisionError: a division by zero.
    """
    return int(value(text, values))


def value(text: str, values: Mapping[str, Any]) -> Any:
    """Return an expression's value as it is: sizes may be symbols of a trace, and attributes floats or lists."""
    return _evaluate(parse(text), values)


@functools.cache
def function_of(text: str) -> tuple[tuple[str, ...], Callable[..., Any]]:
    """Return an expression as a Python function and the names of its arguments: torch.compile traces such a one."""
    arguments = tuple(sorted(names(text)))
    known = {"min": functools.partial(_spread, min), "max": functools.partial(_spread, max), "len": len}
    # The text holds nothing but arithmetic: `parse` saw to that.
    return arguments, eval(f"lambda {', '.join(arguments)}: {text}", {"__builtins__": {}, **known})


def _spread(function: Callable[[list[Any]], Any], *arguments: Any) -> Any:
    """Call min or max on numbers and on the members of lists."""
    return function(
        [x for argument in arguments for x in (argument if isinstance(argument, (list, tuple)) else [argument])]
    )


def _evaluate(node: ast.expr, values: Mapping[str, Value]) -> Any:
    """Return a number, or the list that a name stands for."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.UnaryOp):
        return -_evaluate(node.operand, values)
    if isinstance(node, ast.IfExp):
        return _evaluate(node.body if _evaluate(node.test, values) else node.orelse, values)
    if isinstance(node, ast.BoolOp):
        results = (bool(_evaluate(part, values)) for part in node.values)
        return int(all(results) if isinstance(node.op, ast.And) else any(results))
    if isinstance(node, ast.Call):
        return _call(node, values)
    if isinstance(node, ast.Compare):
        left, right = _evaluate(node.left, values), _evaluate(node.comparators[0], values)
        orders = {"==": left == right, "!=": left != right, "<": left < right, ">": left > right}
        orders |= {"<=": left <= right, ">=": left >= right}
        return int(orders[_COMPARE[type(node.ops[0])]])
    assert isinstance(node, ast.BinOp)
    left, right = _evaluate(node.left, values), _evaluate(node.right, values)
    if isinstance(node.op, ast.FloorDiv):
        return left // right
    if isinstance(node.op, ast.Mod):
        return left % right
    return (
        left + right if isinstance(node.op, ast.Add) else left - right if isinstance(node.op, ast.Sub) else left * right
    )


def _call(node: ast.Call, values: Mapping[str, Value]) -> int:
    assert isinstance(node.func, ast.Name)
    arguments = [_evaluate(argument, values) for argument in node.args]
    if node.func.id == "len":
        return len(arguments[0])
    result: int = _spread(min if node.func.id == "min" else max, *arguments)
    return result


def spell_out(message: str, values: Mapping[str, Value]) -> str:
    """Return a message with a number in the place of each {expression}."""
    return re.sub(r"\{([^{}]+)\}", lambda match: str(evaluate(match[1], values)), message)


def to_cpp(text: str, spelled: Mapping[str, str]) -> str:
    """Return the expression in the terms of common/expression.h, whose numbers compute as Python's do.

    Args:
        text: an expression.
        spelled: the C++ of each name that it reads: a Number, or Numbers for an attribute that is a list.
    """
    return _to_cpp(parse(text), spelled)


def _to_cpp(node: ast.expr, spelled: Mapping[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return f"{node.value!r}_n"
    if isinstance(node, ast.Name):
        return spelled[node.id]
    if isinstance(node, ast.UnaryOp):
        return f"(-{_to_cpp(node.operand, spelled)})"
    if isinstance(node, ast.IfExp):
        test, yes, no = (_to_cpp(part, spelled) for part in (node.test, node.body, node.orelse))
        return f"({test} ? {yes} : {no})"
    if isinstance(node, ast.BoolOp):
        return "(" + f" {_BOOLEAN[type(node.op)]} ".join(_to_cpp(part, spelled) for part in node.values) + ")"
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return f"{node.func.id}_of({', '.join(_to_cpp(argument, spelled) for argument in node.args)})"
    if isinstance(node, ast.Compare):
        operator = _COMPARE[type(node.ops[0])]
        return f"({_to_cpp(node.left, spelled)} {operator} {_to_cpp(node.comparators[0], spelled)})"
    assert isinstance(node, ast.BinOp)
    return f"({_to_cpp(node.left, spelled)} {_BINARY[type(node.op)]} {_to_cpp(node.right, spelled)})"
