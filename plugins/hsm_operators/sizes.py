"""The sizes and attributes of one call: bound to the names that the signature gives them, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import expression
from .operator import Operator


def bound_sizes(operator: Operator, shapes: Sequence[Sequence[Any]], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the operator's expressions read, from its inputs' shapes and attributes.

    Raises:
        ValueError: a shape has another number of dimensions than the port, or two shapes contradict each other.
    """
    values: dict[str, Any] = {name: attributes[name] for name in (a.name for a in operator.attributes)}
    for port, shape in zip(operator.inputs, shapes, strict=True):
        if len(shape) != len(port.shape):
            wanted = ",".join(port.shape)
            raise ValueError(f"{operator.name}: {port.name} must be ({wanted}), got shape {tuple(shape)}")
        for name, size in zip(port.shape, shape, strict=True):
            if values.setdefault(name, size) != size:
                raise ValueError(f"{operator.name}: {name} is {size} in {port.name}, and {values[name]} before")
    return values


Equation = tuple[str, tuple[str, ...], Callable[..., Any]]


def equations(operator: Operator) -> tuple[Equation, ...]:
    """Return what rules such as R == K - 1 compute: a size, the names that it is computed from, and how."""
    split = [rule.condition.partition(" == ") for rule in operator.rules]
    found = tuple(
        (name, *expression.function_of(text)) for name, equals, text in split if equals and name.isidentifier()
    )
    return found * len(found)  # as often as one may need what another computes


def with_implied(known: Sequence[Equation], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes and attributes with those added that equations compute from them."""
    found = dict(values)
    for name, needed, compute in known:
        if name not in found and all(other in found for other in needed):
            found[name] = compute(*[found[other] for other in needed])
    return found


def require_rules(operator: Operator, values: Mapping[str, Any]) -> None:
    """Check sizes and attributes, as `bound_sizes` returns them.

    Raises:
        ValueError: an attribute or a size is out of its range, or a rule does not hold; says which.
    """
    for attribute in operator.attributes:
        given = values[attribute.name]
        for number in given if isinstance(given, (list, tuple)) else (given,):
            if attribute.least is not None and number < attribute.least:
                raise ValueError(f"{operator.name}: {attribute.name} must be at least {attribute.least}, got {given}")
            if attribute.most is not None and number > attribute.most:
                raise ValueError(f"{operator.name}: {attribute.name} must be at most {attribute.most}, got {given}")
    for dimension in operator.sizes.values():
        size = values.get(dimension.name)
        if size is not None and not dimension.least <= size <= dimension.most:
            words = dimension.words or dimension.name
            raise ValueError(f"{operator.name}: {dimension.name} = {size} {words} is out of range")
    for rule in operator.rules:
        if not expression.evaluate(rule.condition, values):
            raise ValueError(f"{operator.name}: {expression.spell_out(rule.message, values)}")
