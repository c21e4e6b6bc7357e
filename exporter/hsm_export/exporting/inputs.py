"""Inputs of a graph: their names, which of their dimensions are dynamic, and examples to trace with."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError
from ..torch_model.source_call import Slot, SourceCall
from ..torch_model.user_module import guarded

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = "batch"
LENGTH = "length"
_TRIED = 32  # guesses at which dimensions are the batch
Border = Literal["float32", "precision", "accumulator"]


@dataclass(frozen=True)
class TraceInput:
    """A tensor argument of the module to trace.

    Attributes:
        name: name of the input in the file.
        example: example value; no dynamic dimension of it has size 1.
        dynamic: dimension -> wished name; these become dynamic or the export fails.
        free: dimension -> wished name; these become dynamic only if the module's code allows it.
        low, high: bounds of the values, where known.
        counts: for numbers of valid tokens, the wished name of the dimension that they count.
        chosen: the user chose the names: equal ones are one dimension.
        border: type of a floating-point input: "float32" in every file and the model's own type in PyTorch;
            "precision", that of the weights and activations in both; or "accumulator", float32 in every file and in
            PyTorch what sums have (float64 in double models).
    """

    name: str
    example: Tensor
    dynamic: dict[int, str] = field(default_factory=dict)
    free: dict[int, str] = field(default_factory=dict)
    low: int | None = None
    high: int | None = None
    counts: str | None = None
    chosen: bool = False
    border: Border = "float32"

    @property
    def seen(self) -> tuple[int, int] | None:
        """The smallest and the largest value of integers; None for other types."""
        if self.example.is_floating_point() or self.type == "bool" or not self.example.numel():
            return None
        return int(self.example.min()), int(self.example.max())

    @property
    def usual(self) -> int | None:
        """The commonest value of integers and Booleans; None for other types."""
        if self.example.is_floating_point() or not self.example.numel():
            return None
        return int(self.example.long().flatten().mode().values)

    @property
    def type(self) -> str:
        """What `SourceCall.types` calls the type in which the module takes the input."""
        if not self.example.is_floating_point():
            return str(self.example.dtype).removeprefix("torch.")
        return "accumulator" if self.border == "accumulator" else "model"


@dataclass(frozen=True)
class Arguments:
    """Everything that `forward` is called with.

    Attributes:
        args, kwargs: as in `SourceCall`, the slots named after the inputs.
        inputs: the tensors among them, in order.
        shared: names of dynamic dimensions that are one size wherever they occur, by definition.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[TraceInput, ...]
    shared: frozenset[str] = frozenset()

    @property
    def call(self) -> SourceCall:
        """How the module is called."""
        return SourceCall(self.args, self.kwargs, {spec.name: spec.type for spec in self.inputs})


def bind(
    module: nn.Module,
    example_inputs: Any,
    input_names: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> Arguments:
    """Find the tensors among example inputs, and name them after the parameters of `module.forward`.

    Args:
        module: the module to call.
        example_inputs: a tensor, a sequence of arguments, or a mapping of keyword arguments; arguments may be lists,
            tuples and dicts of tensors and constants.
        input_names: names for the tensors in the file, instead of the parameters' own.
        dynamic: input name -> {dimension: name}, replacing the default for that input.

    Raises:
        UsageError: the arguments do not fit `forward`, are not tensors or constants, or the names do not fit them.
    """
    from ..torch_model.explicit_state import ExplicitState

    args, kwargs = _given(example_inputs)
    names = _parameters(module, args, kwargs)
    found: list[TraceInput] = []
    chosen = iter(input_names or ())
    tree = tuple(_bound(value, name, found, chosen) for value, name in zip(args, names, strict=False))
    keywords = {name: _bound(kwargs[name], name, found, chosen) for name in names[len(args) :]}
    if isinstance(module, ExplicitState):  # a state's sizes are the module's own; rows may be of any number
        states = {spec.name for spec in _slots(keywords.get("past"))}
        found = [replace(s, dynamic={}, free={0: BATCH}) if s.name in states and s.example.dim() else s for s in found]
    if not found:
        raise UsageError("the example inputs hold no tensor", "pass at least one tensor: export(module, (x,), path)")
    own = [spec.name for spec in found]
    if (input_names is not None and len(input_names) != len(found)) or len(set(own)) != len(own):
        raise UsageError(
            f"input_names has {len(input_names or own)} names ({', '.join(input_names or own)}) but the module takes "
            f"{len(found)} tensors",
            "give one distinct name for each tensor",
        )
    found = _with_overrides(found, dynamic or {})
    return _fitting(module, Arguments(tree, keywords, tuple(_enlarged(found))), found)


def _given(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the examples as (args, kwargs)."""
    if _is_tensor(example_inputs):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), {str(name): value for name, value in example_inputs.items()}
    if isinstance(example_inputs, (list, tuple)):
        return tuple(example_inputs), {}
    raise UsageError(
        f"example_inputs is of type {type(example_inputs).__name__}, not tensors",
        "pass a tensor, a tuple of the arguments of forward, or a dict of keyword arguments",
    )


def _parameters(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Return names of the positional arguments, then the keywords, all in the order of forward's parameters."""
    from ..torch_model.explicit_state import ExplicitState

    with guarded(f"reading the signature of {type(module).__name__}.forward"):
        signature = module.signature if isinstance(module, ExplicitState) else inspect.signature(module.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            f"the example inputs do not fit {type(module).__name__}.forward{signature}: {error}",
            "pass the arguments of forward as a tuple, or as a dict of keyword arguments",
        ) from error
    names: list[str] = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            names += value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            names += (f"{name}_{index}" for index in range(len(value)))
        else:
            names.append(name)
    return names


def _bound(value: Any, name: str, found: list[TraceInput], chosen: Iterator[str]) -> Any:
    """Return an argument with slots in place of its tensors, which go to `found`."""
    if _is_tensor(value):
        found.append(_trace_input(next(chosen, name), value))
        return Slot(found[-1].name)
    if type(value) in (list, tuple):
        return type(value)(_bound(item, f"{name}_{index}", found, chosen) for index, item in enumerate(value))
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        return {key: _bound(item, f"{name}_{key}", found, chosen) for key, item in value.items()}
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise UsageError(
            f"the example for argument {name!r} is a {type(value).__name__}, not a tensor",
            "wrap the module in one whose forward takes tensors, numbers, texts, lists, tuples and dicts only",
        )
    return value


def _slots(value: Any) -> list[Slot]:
    """Return the slots in an argument that is a dict of tensors."""
    return [slot for slot in value.values() if isinstance(slot, Slot)] if isinstance(value, Mapping) else []


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _trace_input(name: str, example: Tensor) -> TraceInput:
    """Describe an input with the default choice of dynamic dimensions.

    Dimension 0 is the batch. Dimension 1 is the length of integer (B,T,...) and of float (B,T,D) inputs, where the
    module's code allows it; else the last dimension of (B,C,T). Of a float matrix dimension 1 may be either a length or
    features, so the module decides there, too; images (B,C,H,W) keep their size.
    """
    import torch

    if example.is_complex():
        raise UsageError(
            f"the example for {name!r} is complex, which ONNX files have no type for",
            "take torch.view_as_real(x), and call torch.view_as_complex in forward",
        )
    if example.is_nested or example.layout != torch.strided:
        kind = "nested" if example.is_nested else "sparse"
        hint = "padded, with the lengths beside it" if example.is_nested else "dense (x.to_dense())"
        raise UsageError(
            f"the example for {name!r} is a {kind} tensor, which ONNX files have no type for", f"pass it {hint}"
        )
    dims = example.dim()
    dynamic: dict[int, str] = {}
    free: dict[int, str] = {}
    if dims == 1:
        free = {0: BATCH}
    elif dims >= 2:
        dynamic = {0: BATCH}
        if not example.is_floating_point() or dims in (2, 3):
            free = {1: LENGTH}
    return TraceInput(name, example.detach(), dynamic, free)


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
            spec = replace(spec, dynamic=dims, free={}, chosen=True)
        result.append(spec)
    return result


def _fitting(module: nn.Module, arguments: Arguments, given: Sequence[TraceInput]) -> Arguments:
    """Return arguments that the module takes where `_enlarged` made some that it refuses.

    Of an input that has no batch in front, such as the first state (layers, 1, features) of a recurrent layer, another
    dimension of size 1 is the batch, or none.

    Args:
        module: the module.
        arguments: the enlarged ones.
        given: the inputs before they were enlarged.
    """
    changed = [
        index
        for index, (own, old) in enumerate(zip(arguments.inputs, given, strict=True))
        if own.example.shape != old.example.shape
    ]
    if not changed or _takes(module, arguments):
        return arguments
    first = changed[0]
    choices: list[list[TraceInput]] = []
    for index, (own, old) in enumerate(zip(arguments.inputs, given, strict=True)):
        ones = [dim for dim, size in enumerate(old.example.shape) if size == 1]
        if old.chosen or not ones:
            choices.append([own])
        elif index == first:
            choices.append([own, _one_channel(old)])
        else:
            choices.append([own, _doubled(old, None), *(_doubled(old, dim) for dim in ones)])
    for inputs in itertools.islice(itertools.product(*choices), _TRIED):
        other = replace(arguments, inputs=inputs)
        if _takes(module, other):
            return other
    return arguments


def _one_channel(spec: TraceInput) -> TraceInput:
    """Return an input of which a dimension of size 1 is no length: (B,1,T), if it has three."""
    (larger,) = _enlarged([replace(spec, free={})])
    return replace(larger, free={2: LENGTH} if spec.example.dim() == 3 and spec.example.shape[2] > 1 else {})


def _doubled(spec: TraceInput, batch: int | None) -> TraceInput:
    """Return an input whose batch is another dimension, of size 1 in the example, or none."""
    import torch

    free = {dim: name for dim, name in spec.free.items() if spec.example.shape[dim] > 1}
    if batch is None:
        return replace(spec, dynamic={}, free=free)
    example = torch.cat((spec.example, spec.example), batch)
    return replace(spec, example=example, dynamic={}, free={**free, batch: BATCH})


def _takes(module: nn.Module, arguments: Arguments) -> bool:
    """Say whether a copy of the module runs with these examples, in the type that it has."""
    from ..runtimes.reference_maths import reference_maths
    from ..torch_model.user_module import copied

    args, kwargs = arguments.call.arguments({spec.name: spec.example.clone() for spec in arguments.inputs})
    try:
        with reference_maths():
            copied(module)(*args, **kwargs)
    except Exception:  # a user's module raises what it likes
        return False
    return True


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
