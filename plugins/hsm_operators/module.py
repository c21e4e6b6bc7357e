"""A module of PyTorch as an operator: its parameters and buffers become inputs behind those of the signature."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import OperatorError
from .operator import BOOL, INT64, Port
from .signature import Signature

_PLAIN = (bool, int, float, str, tuple, type(None))


class OperatorModule(nn.Module):
    """A module that calls an operator with its parameters.

    Args:
        module: the module that the operator was made from, or one like it; it keeps the parameters.
        call: the operator's function for PyTorch.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self._call = call

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Call the operator with its inputs, by position or by name."""
        weights = {_port_name(path): tensor for path, tensor in _tensors(self.module)}
        return self._call(*inputs, **named, **weights)


def with_weights(name: str, parsed: Signature, module: nn.Module) -> tuple[Signature, Callable[..., Any]]:
    """Return a module's signature with its parameters and buffers, and its maths as a function of all of them.

    Args:
        name: what messages call the operator.
        parsed: the signature of `forward`.
        module: the module; it is copied.

    Raises:
        OperatorError: the module computes something else in training, or its `forward` takes other inputs.
    """
    for path, part in module.named_modules():
        batch = isinstance(part, nn.modules.batchnorm._BatchNorm)
        if batch or (isinstance(part, nn.modules.dropout._DropoutNd) and part.p):
            kind = type(part).__name__
            raise OperatorError(
                f"{name}: {path or 'the module'} is a {kind}, which computes something else in training",
                "keep it outside the operator",
            )
    taken = list(inspect.signature(module.forward).parameters)
    inputs = [port.name for port in parsed.inputs]
    if taken != inputs:
        raise OperatorError(f"{name}: forward takes {', '.join(taken)}, its signature {', '.join(inputs)}")
    template = copy.deepcopy(module).eval().to("meta")
    paths = [path for path, _ in _tensors(module)]
    ports = [_port(path, tensor) for path, tensor in _tensors(module)]

    def function(*tensors: Tensor) -> Any:
        weights = dict(zip(paths, tensors[len(inputs) :], strict=True))
        return torch.func.functional_call(template, weights, tensors[: len(inputs)])

    names = [*inputs, *(port.name for port in ports)]
    parameters = [inspect.Parameter(own, inspect.Parameter.POSITIONAL_OR_KEYWORD) for own in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__doc__ = module.__doc__
    function.structure = structure(module)  # type: ignore[attr-defined]
    function.__wrapped__ = type(module).forward  # type: ignore[attr-defined]
    return Signature([*parsed.inputs, *ports], parsed.outputs, parsed.states, parsed.rules), function


def structure(module: nn.Module) -> tuple[Any, ...]:
    """Return what two modules that compute the same have in common besides their weights."""
    parts = []
    for path, part in module.named_modules():
        own: Mapping[str, Any] = {k: v for k, v in vars(part).items() if isinstance(v, _PLAIN) and k != "training"}
        parts.append((path, f"{type(part).__module__}.{type(part).__qualname__}", repr(sorted(own.items()))))
    parts += [(path, str(tensor.dtype), str(tensor.dim())) for path, tensor in _tensors(module)]
    return tuple(parts)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _port_name(path: str) -> str:
    return path.replace(".", "_")


def _port(path: str, tensor: Tensor) -> Port:
    name = _port_name(path)
    kind = "T" if tensor.is_floating_point() else BOOL if tensor.dtype == torch.bool else INT64
    return Port(name, kind, tuple(f"{name}_{axis}" for axis in range(tensor.dim())), f"The module's {path}.")
