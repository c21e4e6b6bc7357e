"""Calls of the operators' CUDA kernels, on a GPU or, in rehearsal, under the host shim. PyTorch alone is needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hsm_operators import OPERATORS, Operator, expression, use_kernels
from hsm_operators.case import Case
from hsm_operators.cuda_kernels import CudaKernel, CudaKernelLibrary
from hsm_operators.precision import accumulator
from hsm_operators.registry import families, register_torch_operators
from hsm_operators.translation import overload_of

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Target:
    """The library of kernels, and where its tensors are.

    Attributes:
        library: the kernels.
        device: "cuda", or "cpu" in rehearsal.
    """

    library: CudaKernelLibrary
    device: str

    @staticmethod
    def open(path: Path, device: str) -> Target:
        """Open the library at `path`."""
        register_torch_operators()
        return Target(CudaKernelLibrary(path, device), device)

    @property
    def rehearses(self) -> bool:
        """Whether there is no GPU, so that sizes are small and no time means anything."""
        return self.device == "cpu"

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if not self.rehearses:
            torch.cuda.synchronize()

    def tactics(self, operator: Operator) -> dict[str, CudaKernel]:
        """Return an operator's kernel by the name of each tactic."""
        return self.library.tactics(operator)


def cases(kind: str) -> Iterator[Case]:
    """Yield the families' cases: "TYPICAL" ones as they are used, or "SMALL" ones."""
    for package in families():
        yield from getattr(importlib.import_module(f"{package}.cases"), kind)


def small_case(operator: Operator) -> Case:
    """Return the small case of an operator."""
    return next(case for case in cases("SMALL") if case.operator.name == operator.name)


@dataclass
class Call:
    """One call with numbers for it.

    Attributes:
        operator: the operator.
        sizes: by dimension.
        attributes: all of the operator's.
        inputs: tensors in the order of the operator's inputs.
    """

    operator: Operator
    sizes: Mapping[str, int]
    attributes: Mapping[str, Any]
    inputs: list[Tensor]

    @property
    def lengths(self) -> Tensor | None:
        """The valid tokens of each row, where the operator has them."""
        names = [port.name for port in self.operator.inputs]
        return self.inputs[names.index("lengths")] if "lengths" in names else None

    def reference(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return the outputs of PyTorch's own operators, floats converted to `dtype` first."""
        given = [t.to(dtype) if dtype and t.is_floating_point() else t for t in self.inputs]
        named = {port.name: tensor for port, tensor in zip(self.operator.inputs, given, strict=True)}
        named |= {a.name: bool(v) if a.is_flag else v for a, v in self._attributes()}
        function = overload_of(self.operator)
        with torch.no_grad(), use_kernels(False):
            result = function(*(named.get(a.name, "auto") for a in function._schema.arguments))
        return list(result) if isinstance(result, (tuple, list)) else [result]

    def _attributes(self) -> Iterator[tuple[Any, Any]]:
        for attribute in self.operator.attributes:
            value = self.attributes[attribute.name]
            yield attribute, list(value) if isinstance(value, tuple) else value


def draw(case: Case, sizes: Mapping[str, int], dtype: torch.dtype, target: Target, misaligned: bool = False) -> Call:
    """Return a call with fresh numbers.

    Args:
        case: whose attributes and ranges hold.
        sizes: in place of the case's.
        dtype: the type T.
        target: where the tensors are to be.
        misaligned: tensors start one element off an aligned address.
    """
    operator = case.operator
    complete = Case(operator, {**case.sizes, **sizes}, case.attributes).all_sizes
    kinds = {"T": dtype, "tensor(float)": accumulator(dtype)}
    inputs = []
    for port in operator.inputs:
        shape = [complete[name] for name in port.shape]
        if port.type in kinds:
            inputs.append(_floats(case, port.name, shape, kinds[port.type], target.device, misaligned))
        else:
            inputs.append(_rows(port, shape, {**complete, **case.attributes}, target.device))
    return Call(operator, complete, dict(case.attributes), inputs)


def _floats(case: Case, name: str, shape: list[int], dtype: torch.dtype, device: str, misaligned: bool) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    flat = torch.empty(count + 1, dtype=dtype, device=device)
    tensor = flat[int(misaligned) : count + int(misaligned)].view(shape)
    if name in case.ranges:
        return tensor.uniform_(*case.ranges[name])
    if name in case.starts:
        tensor.zero_()[..., 0] = case.starts[name]
        return tensor
    return tensor.normal_()


def _rows(port: Any, shape: list[int], values: Mapping[str, Any], device: str) -> Tensor:
    if port.type == "tensor(bool)":
        return torch.rand(shape, device=device) < 0.5
    least = expression.evaluate(port.rows.least, values) if port.rows else 0
    most = min(expression.evaluate(port.rows.most, values) if port.rows else values["T"], least + 10_000)
    row = torch.arange(shape[0], device=device).reshape(-1, *[1] * (len(shape) - 1))
    return (most - row % (most - least + 1)).expand(shape).contiguous().to(torch.int64)


def with_kernels(target: Target) -> list[Operator]:
    """Return our operators that the library has CUDA kernels for."""
    return [operator for operator in OPERATORS.values() if target.tactics(operator)]
