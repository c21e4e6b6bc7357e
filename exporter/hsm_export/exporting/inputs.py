"""Inputs of a graph: their names, which of their dimensions are dynamic, and examples to trace with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BATCH = "batch"
LENGTH = "length"
Border = Literal["float32", "precision", "accumulator"]


@dataclass(frozen=True)
class InputSpec:
    """One input of the exported graph.

    Attributes:
        name: its name in the file.
        dtype: its NumPy name, such as "int64".
        shape: sizes, and names for the dynamic dimensions.
        example_shape: the shape that the model was traced and checked with.
        low, high: inclusive bounds of an integer input's values where they are known, else None.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    example_shape: tuple[int, ...]
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class TraceInput:
    """A tensor argument of the module to trace.

    Attributes:
        argument: path of the argument: the parameter of `forward`, and its position below it for `*args`.
        name: name of the input in the file.
        example: example value; no dynamic dimension of it has size 1.
        dynamic: dimension -> wished name; these become dynamic or the export fails.
        free: dimension -> wished name; these become dynamic only if the module allows it.
        low, high: bounds of the values, where known.
        border: type of a floating-point input: "float32" in every file and the model's own type in PyTorch;
            "precision", that of the weights and activations in both; or "accumulator", float32 in every file and in
            PyTorch what sums have (float64 in double models).
    """

    argument: tuple[str, int | None]
    name: str
    example: Tensor
    dynamic: dict[int, str] = field(default_factory=dict)
    free: dict[int, str] = field(default_factory=dict)
    low: int | None = None
    high: int | None = None
    border: Border = "float32"

    def cast(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a value of this input in the type that PyTorch takes when it computes in `dtype`."""
        from hsm_operators.precision import accumulator

        if not value.is_floating_point():
            return value
        return value.to(accumulator(dtype) if self.border == "accumulator" else dtype)


class Variadic(list[Any]):
    """The tensors that were passed as `*args`; a plain list is not allowed as an argument."""


@dataclass(frozen=True)
class Arguments:
    """Everything that `forward` is called with.

    Attributes:
        values: parameter of `forward` -> tensor, constant, or `Variadic` for `*args`.
        inputs: the tensors among them, in order.
        shared: names of dynamic dimensions that are one size wherever they occur, by definition.
    """

    values: dict[str, Any]
    inputs: tuple[TraceInput, ...]
    shared: frozenset[str] = frozenset()

    def with_examples(self, examples: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return (args, kwargs) of a call of `forward` with other tensors in place of the examples."""
        values = {
            name: Variadic(value) if isinstance(value, Variadic) else value for name, value in self.values.items()
        }
        for spec, example in zip(self.inputs, examples, strict=True):
            name, index = spec.argument
            if index is None:
                values[name] = example
            else:
                values[name][index] = example
        args: tuple[Any, ...] = ()
        if any(isinstance(value, Variadic) for value in values.values()):
            # What stands before *args must be passed by position.
            for name in list(values):
                value = values.pop(name)
                if isinstance(value, Variadic):
                    args += tuple(value)
                    break
                args += (value,)
        return args, values

    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return (args, kwargs) of a call of `forward` with the examples."""
        return self.with_examples([spec.example for spec in self.inputs])


def bind(
    module: nn.Module,
    example_inputs: Any,
    input_names: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> Arguments:
    """Match example inputs with the parameters of `module.forward`.

    Args:
        module: the module to call.
        example_inputs: a tensor, a sequence of arguments, or a mapping of keyword arguments.
        input_names: names for the tensors in the file, instead of the parameters' own.
        dynamic: input name -> {dimension: name}, replacing the default for that input.

    Raises:
        UsageError: the arguments do not fit `forward`, are not tensors or constants, or the names do not fit them.
    """
    values = _match(module, example_inputs)
    found: list[TraceInput] = []
    for parameter, value in values.items():
        if isinstance(value, Variadic):
            found += [_trace_input((parameter, i), f"{parameter}_{i}", item) for i, item in enumerate(value)]
        elif _is_tensor(value):
            found.append(_trace_input((parameter, None), parameter, value))
        elif value is not None and not isinstance(value, (bool, int, float, str)):
            raise UsageError(
                f"the example for argument {parameter!r} is a {type(value).__name__}, not a tensor",
                "wrap the module in one whose forward takes every tensor as an argument of its own",
            )
    if not found:
        raise UsageError("the example inputs hold no tensor", "pass at least one tensor: export(module, (x,), path)")
    found = _named(found, input_names)
    found = _with_overrides(found, dynamic or {})
    return Arguments(values, tuple(_enlarged(found)))


def _match(module: nn.Module, example_inputs: Any) -> dict[str, Any]:
    """Return parameter -> value; the value of `*args` is a list, `**kwargs` are merged in."""
    if _is_tensor(example_inputs):
        example_inputs = (example_inputs,)
    args = () if isinstance(example_inputs, Mapping) else tuple(example_inputs)
    kwargs = dict(example_inputs) if isinstance(example_inputs, Mapping) else {}
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            f"the example inputs do not fit {type(module).__name__}.forward{signature}: {error}",
            "pass the arguments of forward as a tuple, or as a dict of keyword arguments",
        ) from error
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            values.update(value)
        else:
            values[name] = Variadic(value) if kind is inspect.Parameter.VAR_POSITIONAL else value
    return values


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _trace_input(argument: tuple[str, int | None], name: str, example: Tensor) -> TraceInput:
    """Describe an input with the default choice of dynamic dimensions.

    Dimension 0 is the batch. Dimension 1 is the length of integer (B,T,...) and of float (B,T,D) inputs; of a float
    matrix it may be either a length or features, so the module decides; images (B,C,H,W) keep their size.
    """
    import torch

    if not _is_tensor(example):
        raise UsageError(f"the example for argument {name!r} is a {type(example).__name__}, not a tensor")
    dims = example.dim()
    dynamic: dict[int, str] = {}
    free: dict[int, str] = {}
    if dims == 1:
        free = {0: BATCH}
    elif dims >= 2:
        dynamic = {0: BATCH}
        if not example.is_floating_point() or dims == 3:
            dynamic[1] = LENGTH
        elif dims == 2:
            free = {1: LENGTH}
    low = high = None
    if example.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        low, high = (int(example.min()), int(example.max())) if example.numel() else (0, 0)
    return TraceInput(argument, name, example.detach(), dynamic, free, low, high)


def _named(inputs: list[TraceInput], names: Sequence[str] | None) -> list[TraceInput]:
    if names is None:
        return inputs
    if len(names) != len(inputs) or len(set(names)) != len(names):
        raise UsageError(
            f"input_names has {len(names)} names ({', '.join(names)}) but the module takes {len(inputs)} tensors",
            "give one distinct name for each tensor",
        )
    return [replace(spec, name=name) for spec, name in zip(inputs, names, strict=True)]


def _with_overrides(inputs: list[TraceInput], dynamic: Mapping[str, Mapping[int, str]]) -> list[TraceInput]:
    known = [spec.name for spec in inputs]
    unknown = sorted(set(dynamic) - set(known))
    if unknown:
        raise UsageError(f"dynamic names the inputs {', '.join(unknown)}, but the module has {', '.join(known)}")
    result = []
    for spec in inputs:
        if spec.name in dynamic:
            dims = dict(dynamic[spec.name])
            if any(dim not in range(spec.example.dim()) for dim in dims):
                raise UsageError(f"dynamic[{spec.name!r}] names a dimension that {tuple(spec.example.shape)} lacks")
            spec = replace(spec, dynamic=dims, free={})
        result.append(spec)
    return result


def _enlarged(inputs: list[TraceInput]) -> list[TraceInput]:
    """Repeat examples along dynamic dimensions of size 1, which a trace would take for constants.

    A dimension of size 1 stays as it is where another input has more under the same name: it is broadcast.
    """
    import torch

    sizes: dict[str, int] = {}
    for spec in inputs:
        for dim, name in {**spec.dynamic, **spec.free}.items():
            sizes[name] = max(sizes.get(name, 0), spec.example.shape[dim])
    result = []
    for spec in inputs:
        example, dynamic, free = spec.example, dict(spec.dynamic), dict(spec.free)
        for dim, name in {**dynamic, **free}.items():
            if example.shape[dim] == 0:
                raise UsageError(f"the example for {spec.name!r} is empty: its shape is {tuple(example.shape)}")
            if example.shape[dim] == 1 and sizes[name] > 1:
                dynamic.pop(dim, None)
                free.pop(dim, None)
            elif example.shape[dim] == 1:
                example = torch.cat((example, example), dim)
        result.append(replace(spec, example=example, dynamic=dynamic, free=free))
    return result
