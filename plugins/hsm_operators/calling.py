"""What is called in PyTorch: plain Python around the torch operator, so that torch.compile can trace it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .operator import Operator
from .sequence import Steps
from .sizes import Equation, equations, with_implied


def callable_of(
    spec: Operator, torch_operator: Any, source: Callable[..., Any], steps: Steps | None
) -> Callable[..., Any]:
    """Return what is called in PyTorch: plain Python around the torch operator, so that it can be traced."""
    ports = [port.name for port in spec.inputs]
    names = (*ports, *(attribute.name for attribute in spec.attributes))
    optional = {state.past for state in spec.states} | ({steps.lengths} if steps and steps.lengths else set())
    needed = [name for name in ports if name not in optional]
    defaults = _defaults(source, spec)
    rules = equations(spec)

    @functools.wraps(source)
    def call(*arguments: Any, **keywords: Any) -> Any:
        given = {**defaults, **_named(spec, ports, needed, arguments, keywords)}
        missing = [name for name in names if name not in given]
        if missing:
            given |= _initial(spec, steps, rules, [name for name in missing if name in optional], given)
            missing = [name for name in missing if name not in given]
        if missing:
            raise TypeError(f"{spec.qualified_name} needs {', '.join(missing)}")
        if spec.routing is not None:
            from .routing import observe

            logits = spec.routing.logits
            given[logits] = observe(given[logits], given[spec.routing.active])
        return torch_operator(*[given[name] for name in names])

    call.operator = spec  # type: ignore[attr-defined]
    return call


def _named(
    spec: Operator, ports: list[str], needed: list[str], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments by name: by position come either all inputs, or none of those that may be left out."""
    order = ports if len(arguments) == len(ports) else needed
    if len(arguments) > len(order):
        by_name = [name for name in ports if name not in needed]
        raise TypeError(
            f"{spec.qualified_name} takes {', '.join(needed)} by position, got {len(arguments)} arguments; "
            f"name the others: {', '.join(f'{name}=' for name in by_name)}"
        )
    given = dict(zip(order, arguments, strict=False))
    known = {*ports, *(attribute.name for attribute in spec.attributes)}
    wrong = [name for name in keywords if name not in known or name in given]
    if wrong:
        raise TypeError(f"{spec.qualified_name} has no argument {', '.join(wrong)}, or got it twice")
    return {**given, **keywords}


def _initial(
    spec: Operator, steps: Steps | None, rules: tuple[Equation, ...], missing: list[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return states of zeros and lengths of all tokens, in place of those that a call leaves out."""
    import torch

    from .registration import own_type, type_of

    sizes = _known_sizes(spec, rules, given)
    tensors = [given[port.name] for port in spec.inputs if port.name in given]
    own = next((given[port.name].dtype for port in spec.inputs if port.type == "T" and port.name in given), None)
    made = {}
    for name in missing:
        port = spec.port(name)
        unknown = [size for size in port.shape if size not in sizes]
        if unknown:
            raise TypeError(
                f"{spec.qualified_name} needs {name}: its dimension {', '.join(unknown)} is in no other input; "
                f"pass it, or say how large it is in the signature, as in {unknown[0]}=…"
            )
        shape = [sizes[size] for size in port.shape]
        if steps is not None and name == steps.lengths:
            made[name] = tensors[0].new_full(shape, sizes[steps.time], dtype=torch.int64)
        else:
            made[name] = tensors[0].new_zeros(shape, dtype=type_of(port, own or own_type(spec, [])))
    return made


def _known_sizes(spec: Operator, rules: tuple[Equation, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that the given inputs have, and those that rules such as R == K - 1 compute from them."""
    sizes: dict[str, Any] = {a.name: given[a.name] for a in spec.attributes if a.name in given}
    for port in spec.inputs:
        if port.name in given:
            for name, size in zip(port.shape, given[port.name].shape, strict=False):
                sizes.setdefault(name, size)
    return with_implied(rules, sizes)


def _defaults(function: Callable[..., Any], spec: Operator) -> dict[str, Any]:
    names = {attribute.name for attribute in spec.attributes}
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name in names and p.default is not p.empty}
