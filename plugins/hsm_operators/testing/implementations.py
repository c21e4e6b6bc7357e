"""What is held to the definition: PyTorch's function, and kernels on memory that was poisoned before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from ..kernels import Kernel
from ..operator import BOOL, FLOAT, INT64, UINT8, Operator
from ..registration import computed
from ..registry import maths_of, register_torch_operators
from ..switch import use_kernels
from ..translation import overload_of
from .approximating import Approximate
from .subject import Array, Attributes

DTYPES = ("fp32", "fp16", "bf16")
NUMPY_TYPES: Mapping[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FIXED = {FLOAT: torch.float32, INT64: torch.int64, BOOL: torch.bool, UINT8: torch.uint8}


class FaultError(Exception):
    """What an implementation did that no numbers show, such as changing its inputs."""


class Implementation(Protocol):
    """One way to compute an operator."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def run(self, operator: Operator, attributes: Attributes, inputs: Mapping[str, Array], dtype: str) -> list[Array]:
        """Return the outputs for inputs in float64 that are numbers of their types.

        Raises:
            FaultError: it did what it must not do.
        """
        ...


@dataclass(frozen=True)
class Torch:
    """PyTorch's function in the type under test, without kernels."""

    name: str = "torch"

    def run(self, operator: Operator, attributes: Attributes, inputs: Mapping[str, Array], dtype: str) -> list[Array]:
        """Return the outputs in float64.

        Raises:
            FaultError: the function failed.
        """
        try:
            return run_torch(operator, inputs, attributes, dtype)
        except Exception as error:  # somebody's function can fail in any way
            raise FaultError(f"{type(error).__name__}: {error}") from error


class KernelOf:
    """A kernel of a library, on outputs that hold NaN before.

    Args:
        kernel: what computes.
        name: what reports call it.
        parallel: it uses several threads.
    """

    def __init__(self, kernel: Kernel, name: str, parallel: bool = False) -> None:
        self.kernel = kernel
        self.name = name
        self.parallel = parallel

    def run(self, operator: Operator, attributes: Attributes, inputs: Mapping[str, Array], dtype: str) -> list[Array]:
        """Return the outputs in float64.

        Raises:
            FaultError: it changed an input.
        """
        return self._run(operator, attributes, inputs, dtype, in_place=False)

    def run_in_place(
        self, operator: Operator, attributes: Attributes, inputs: Mapping[str, Array], dtype: str
    ) -> list[Array]:
        """Do the same, where each state that allows it is one buffer before and after the call."""
        return self._run(operator, attributes, inputs, dtype, in_place=True)

    def _run(
        self, operator: Operator, attributes: Attributes, inputs: Mapping[str, Array], dtype: str, *, in_place: bool
    ) -> list[Array]:
        given = tensors_of(operator, inputs, dtype)
        before = [tensor.clone() for tensor in given]
        results = [_poisoned(tensor) for tensor in self.kernel.outputs(given)]
        shared = operator.in_place if in_place else {}
        for past, present in shared.items():
            results[present] = given[past]
        try:
            self.kernel.into(given, plain(operator, attributes), results)
        except (ValueError, RuntimeError) as error:
            raise FaultError(f"refused: {error}") from error
        for index, (port, one, other) in enumerate(zip(operator.inputs, given, before, strict=True)):
            if index not in shared and not _same_bits(one, other):
                raise FaultError(f"changed its input {port.name}")
        return [array_of(tensor) for tensor in results]


def run_torch(
    operator: Operator, inputs: Mapping[str, Array], attributes: Attributes, dtype: str = "", **options: str
) -> list[Array]:
    """Run the PyTorch function natively in `dtype`, or in float64.

    Args:
        operator: one that PyTorch knows.
        inputs: float64 and int64 arrays.
        attributes: all of them.
        dtype: the type T; "" is float64, and then other floats are float64 too.
        options: arguments that ONNX does not have.
    """
    register_torch_operators()
    overload = overload_of(operator)
    given = dict(zip((port.name for port in operator.inputs), tensors_of(operator, inputs, dtype), strict=True))
    given.update(plain(operator, attributes))
    arguments = {argument.name for argument in overload._schema.arguments}
    ways = dict.fromkeys(operator.evaluations, "auto") | options
    with use_kernels(False), torch.no_grad():
        result = overload(**{name: value for name, value in {**given, **ways}.items() if name in arguments})
    outputs: Sequence[Tensor] = result if isinstance(result, (tuple, list)) else (result,)
    return [array_of(output) for output in outputs]


def run_approximately(
    operator: Operator, inputs: Mapping[str, Array], attributes: Attributes, dtype: str, seed: int
) -> list[Array] | None:
    """Run the maths that somebody gave for an operator with element-wise functions that are a little off.

    Returns:
        The outputs; None where the operator's PyTorch function is all there is.
    """
    maths = maths_of(operator)
    if maths is None:
        return None
    given = plain(operator, attributes)
    arguments = [*tensors_of(operator, inputs, dtype), *(given[a.name] for a in operator.attributes)]
    with Approximate(seed), torch.no_grad():
        result = computed(operator, maths.function, arguments)
    return [array_of(output) for output in (result if isinstance(result, tuple) else (result,))]


def tensors_of(operator: Operator, inputs: Mapping[str, Array], dtype: str) -> list[Tensor]:
    """Return the inputs in order as tensors of their types; in float64 where `dtype` is ""."""
    found = []
    for port in operator.inputs:
        tensor = torch.from_numpy(np.ascontiguousarray(inputs[port.name]).copy())
        if tensor.is_floating_point():
            tensor = tensor.to((TORCH_TYPES[dtype] if port.type == "T" else torch.float32) if dtype else torch.float64)
        found.append(tensor)
    return found


def array_of(tensor: Tensor) -> Array:
    """Return a tensor as an array, floats in float64."""
    array: Array = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    return array


def plain(operator: Operator, attributes: Attributes) -> dict[str, Any]:
    """Return attributes as PyTorch's operator takes them."""
    flags = {attribute.name for attribute in operator.attributes if attribute.is_flag}
    return {
        name: bool(value) if name in flags else list(value) if isinstance(value, tuple) else value
        for name, value in attributes.items()
    }


def _poisoned(tensor: Tensor) -> Tensor:
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(1)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return not one.numel() or torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
