"""The sizes and attributes of one call: bound to the names that the signature gives them, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
