"""Equal ways to compute an operator in PyTorch, which round differently.

Some operators of PyTorch have arguments that choose how to compute and not what. Left alone, PyTorch takes the cheaper
way for the sizes at hand; an exported file holds one of them, and a fused kernel chooses again. So what native
precision costs is the larger error of PyTorch's ways.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from hsm_operators import Operator, find
from hsm_operators.registry import find_torch

from .operator_calls import operators_called_by


def have_evaluations(operators: Iterable[tuple[str, str]]) -> bool:
    """Say whether any of these operators, given by domain and name, has several evaluations in PyTorch."""
    found = (find(domain, name) for domain, name in operators)
    return any(operator is not None and operator.evaluations for operator in found)


@contextlib.contextmanager
def evaluated_as_body(wanted: bool = True) -> Iterator[None]:
    """Make PyTorch compute inside the block as the operators' bodies do.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return

    def as_body(func: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        operator = find_torch(func)
        if operator is not None and operator.evaluations:
            arguments = _with(operator, func, arguments)
        return func(*arguments, **options)

    with operators_called_by(as_body):
        yield


def _with(operator: Operator, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a call with those that choose how to compute as the body does it."""
    names = [argument.name for argument in func._schema.arguments]
    chosen = {name: values[0] for name, values in operator.evaluations.items()}
    return tuple(chosen.get(name, value) for name, value in zip(names, args, strict=False))
