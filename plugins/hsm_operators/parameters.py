"""A function's parameters as an operator's attributes: those that the signature does not have."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

from .errors import OperatorError
from .operator import Attribute
from .signature import Signature

_TYPES: dict[type, tuple[str, bool]] = {int: ("int", False), bool: ("int", True), float: ("float", False)}
TAKES = "a function takes the inputs of the signature, by the same names and in the same order, then the attributes"


def attributes_of(
    name: str, parsed: Signature, function: Callable[..., Any], given: Sequence[Attribute], *, is_step: bool
) -> tuple[Attribute, ...]:
    """Return the attributes of an operator.

    Args:
        name: what messages call it.
        parsed: its signature.
        function: its maths.
        given: attributes whose ranges or descriptions are known.
        is_step: the function is of one token, and takes inputs in any order.

    Raises:
        OperatorError: a parameter is neither an input nor an attribute, or they are in another order.
    """
    inputs = [port.name for port in parsed.inputs]
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise OperatorError(f"{name}: the parameters of {function!r} cannot be read: {error}") from error
    tensors = [parameter.name for parameter in parameters if parameter.name in inputs]
    missing = [port for port in inputs if port not in tensors]
    if missing and not is_step:
        raise OperatorError(f"{name}: its function has no parameter {', '.join(missing)}", TAKES)
    if not is_step and tensors != inputs:
        raise OperatorError(
            f"{name}: its function takes {', '.join(tensors)}, its signature {', '.join(inputs)}", TAKES
        )
    described = {attribute.name: attribute for attribute in given}
    found: list[Attribute] = []
    for parameter in parameters:
        if parameter.name in inputs:
            if found:
                raise OperatorError(f"{name}: {parameter.name} stands behind an attribute", "put the inputs first")
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise OperatorError(f"{name}: its function takes *{parameter.name}", TAKES)
        known = described.pop(parameter.name, None)
        found.append(known or plain_attribute(parameter.name, _kind(name, parameter, _hint(function, parameter))))
    if described:
        raise OperatorError(f"{name}: its function has no parameter {', '.join(described)}", TAKES)
    return tuple(found)


def plain_attribute(name: str, kind: tuple[str, bool]) -> Attribute:
    """Return an attribute of a type of `Attribute`; `kind` says too whether it is a flag."""
    return Attribute(name, kind[0], "", *((0, 1) if kind[1] else ()))


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return a parameter's annotation, evaluated where the module postpones that; None where there is none."""
    hint = None if parameter.annotation is parameter.empty else parameter.annotation
    if isinstance(hint, str):
        try:
            return eval(hint, dict(getattr(inspect.unwrap(function), "__globals__", {})))
        except Exception:  # a name that only type checkers see
            return hint
    return hint


def _kind(name: str, parameter: inspect.Parameter, hint: Any) -> tuple[str, bool]:
    """Return the type of an attribute, and whether it is a flag, from an annotation or a default."""
    if hint is None and parameter.default is not parameter.empty:
        hint = list[int] if isinstance(parameter.default, (list, tuple)) else type(parameter.default)
    if isinstance(hint, type) and hint in _TYPES:
        return _TYPES[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple, Sequence) and arguments and arguments[0] is int:
        return "ints", False
    what = "no annotation" if hint is None else f"the annotation {getattr(hint, '__name__', hint)}"
    raise OperatorError(
        f"{name}: parameter {parameter.name} has {what}",
        "it is no input, so it is an attribute: int, bool, float or list[int]; another form is another operator",
    )
