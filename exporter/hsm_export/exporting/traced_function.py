"""A traced function beside the one that it was traced from: called alike, and held to it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

Attributes = Mapping[str, Any]


def captured_parameters(function: Any) -> Iterator[torch.nn.Parameter]:
    """Yield the parameters that a function reads from outside, by itself or of a module."""
    import torch

    try:
        outside = inspect.getclosurevars(inspect.unwrap(function))
    except TypeError:  # no function of Python
        return
    for value in (*outside.nonlocals.values(), *outside.globals.values()):
        if isinstance(value, torch.nn.Module):
            yield from value.parameters()
        elif isinstance(value, torch.nn.Parameter):
            yield value


def agrees(
    program: Program, tensors: Sequence[torch.Tensor], attributes: Attributes, expected: Sequence[torch.Tensor]
) -> bool:
    """Return whether a trace computes what is expected.

    Its guards are left aside: torch also writes one for each size that is not 1 in a formula of sizes, though the graph
    is right there.
    """
    import torch

    try:
        with torch.no_grad():
            found = listed(program(tensors, attributes, guarded=False))
    except (AssertionError, RuntimeError):
        return False
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )


def failed_guard(program: Program, tensors: Sequence[torch.Tensor], attributes: Attributes) -> str:
    """Return the guard of a trace that these tensors fail, for a message; "" where there is none."""
    try:
        program(tensors, attributes)
    except (AssertionError, RuntimeError) as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return f" ({text})" if text.startswith("Guard failed") else ""
    return ""


def listed(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


class Program:
    """A traced function; calling it takes tensors and all attributes.

    Args:
        program: the trace.
        open: the attributes that it takes, in order.
    """

    def __init__(self, program: ExportedProgram, open: Sequence[str]) -> None:
        self._guarded, self._plain = program.module(), program.module(check_guards=False)
        self._plain._forward_pre_hooks.clear()  # the ranges of sizes, which are guards too
        self._open = open

    def __call__(self, tensors: Sequence[torch.Tensor], attributes: Attributes, guarded: bool = True) -> Any:
        module = self._guarded if guarded else self._plain
        return module(*tensors, *(attributes[name] for name in self._open))


def module_of(function: Any, count: int, names: Sequence[str], held: Attributes) -> torch.nn.Module:
    """Return a module that takes tensors and open attributes by position."""
    import torch

    class Function(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            attributes = {**held, **dict(zip(names, tensors[count:], strict=True))}
            result = function(*tensors[:count], **attributes)
            return tuple(result) if isinstance(result, list) else result

    return Function()
