"""How a PyTorch source is called: which argument each input of a file is, the constants, and what its results are.

The exporter writes it into the file's metadata, and whoever runs the source beside the file replays exactly that.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..dtypes import ELEMENT_TYPES, element_name
from ..errors import BadInputError
from ..formats.document import Document, converted, parsed

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import Tensor, nn
    from typing_extensions import Self

KEY = "hsm_export.call"
_MODEL, _ACCUMULATOR = "model", "accumulator"
_EXACT = tuple(item.name for item in ELEMENT_TYPES if item.is_integer or item.name == "bool")
_TYPES = (_MODEL, _ACCUMULATOR, *_EXACT)
_AGAIN = "export the file again"

# The keys, fields and positions that lead to a tensor in a result.
Keys = tuple[str | int, ...]
if TYPE_CHECKING:
    InputType = str
else:  # what a file may say
    InputType = Literal[_TYPES]


class WrittenCall(Document, frozen=True):
    """A call as a file keeps it.

    Attributes:
        args, kwargs: constants, or {"input": name}, {"list": […]}, {"tuple": […]} and {"dict": [[key, value], …]}.
        types, outputs: as in `SourceCall`.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    types: dict[str, InputType]
    outputs: dict[str, Keys]


@dataclass(frozen=True)
class Slot:
    """The place of a tensor among the arguments.

    Attributes:
        name: the input of the file that goes there.
    """

    name: str


@dataclass(frozen=True)
class SourceCall:
    """How to call a module.

    Attributes:
        args, kwargs: positional and keyword arguments: slots, constants, and lists, tuples and dicts of them.
        types: type that the module takes an input in: "model", the type that it computes in; "accumulator", that of
            its sums; or one exact type, such as "int64".
        outputs: name of each output of the file -> the keys, fields and positions that lead to it in the result.
            Empty where the file does not say: then its outputs are the result's tensors in their order.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    types: Mapping[str, str]
    outputs: Mapping[str, Keys] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of the arguments."""
        return tuple(slot.name for slot in _slots((*self.args, dict(self.kwargs))))

    def arguments(self, tensors: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return (args, kwargs) with values by the inputs' names in their places."""
        return _filled(self.args, tensors), _filled(dict(self.kwargs), tensors)

    def run(self, module: nn.Module, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Call a module that computes in `dtype`, and return its tensors in the order of the file's outputs.

        Args:
            module: the module.
            inputs: tensors by name, of any type of the right kind.
            dtype: float32, float16, bfloat16 or float64.

        Raises:
            BadInputError: the result lacks an output of the file.
        """
        args, kwargs = self.arguments({name: self._cast(name, inputs[name], dtype) for name in self.types})
        found = dict(tensors(module(*args, **kwargs)))
        for path in self.outputs.values():
            if path not in found:
                raise BadInputError(
                    f"the result of {type(module).__name__} has no tensor result{written(path)}",
                    "is this the module that the file was exported from?",
                )
        return [found[path] for path in self.outputs.values()] if self.outputs else list(found.values())

    def _cast(self, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        import torch

        from hsm_operators.precision import accumulator

        kind = self.types[name]
        wanted = getattr(torch, kind) if kind in _EXACT else accumulator(dtype) if kind == _ACCUMULATOR else dtype
        return value.to(wanted, copy=True)  # forward may write into it

    def to_json(self) -> str:
        """Return the call as a file keeps it."""
        kwargs = {name: _encoded(value) for name, value in self.kwargs.items()}
        call = WrittenCall(tuple(map(_encoded, self.args)), kwargs, dict(self.types), dict(self.outputs))
        return json.dumps(call.to_dict())

    @classmethod
    def of_file(cls, model: onnx.ModelProto) -> Self | None:
        """Return what a file says; None where it says nothing.

        Raises:
            BadInputError: what it says is damaged, or names other inputs or outputs than the graph has.
        """
        text = next((item.value for item in model.metadata_props if item.key == KEY), None)
        if text is None:
            return None
        where = f"the metadata {KEY}"
        data = converted(parsed(text, where, _AGAIN), WrittenCall, where, "valid", _AGAIN)
        try:
            args = tuple(_decoded(value) for value in data.args)
            kwargs = {name: _decoded(value) for name, value in data.kwargs.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInputError(f"{where} is not valid: {error}", _AGAIN) from error
        call = cls(args, kwargs, data.types, data.outputs)
        call._check(model)
        return call

    def _check(self, model: onnx.ModelProto) -> None:
        inputs, outputs = ({value.name for value in values} for values in (model.graph.input, model.graph.output))
        names = self.names
        if len(set(names)) != len(names) or set(names) != set(self.types):
            raise BadInputError(f"the metadata {KEY} contradicts itself about the inputs", _AGAIN)
        for kind, said, there in (("inputs", set(names), inputs), ("outputs", set(self.outputs), outputs)):
            if not said <= there:
                raise BadInputError(
                    f"the metadata {KEY} names the {kind} {', '.join(sorted(said))}; the graph has "
                    f"{', '.join(sorted(there))}",
                    _AGAIN,
                )

    @classmethod
    def guessed(cls, model: onnx.ModelProto, names: Sequence[str], module: nn.Module) -> Self:
        """Return the call of a module beside a file that does not say: by parameter names where all fit, else by place.

        Args:
            model: the file.
            names: those of its inputs that are the module's.
            module: the module.
        """
        kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        types = {}
        for name in names:
            exact = element_name(kinds[name])
            sums = name.startswith("past.") and exact == "float32"
            types[name] = exact if exact in _EXACT else _ACCUMULATOR if sums else _MODEL
        slots = {name: Slot(name) for name in names}
        if set(names) <= set(inspect.signature(module.forward).parameters):
            return cls((), slots, types)
        return cls(tuple(slots.values()), {}, types)


def tensors(result: Any, path: Keys = ()) -> Iterator[tuple[Keys, Tensor]]:
    """Yield the tensors in a module's result with the keys, fields and positions that lead to them, in order."""
    import torch

    if isinstance(result, torch.Tensor):
        yield path, result
        return
    parts: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(result, Mapping):
        parts = iter(result.items())
    elif hasattr(result, "_fields"):  # a named tuple
        parts = zip(result._fields, result, strict=True)
    elif isinstance(result, (list, tuple)):
        parts = iter(enumerate(result))
    elif dataclasses.is_dataclass(result):
        parts = ((item.name, getattr(result, item.name)) for item in dataclasses.fields(result))
    for key, value in parts:
        yield from tensors(value, (*path, key if isinstance(key, int) else str(key)))


def _slots(tree: Any) -> Iterator[Slot]:
    if isinstance(tree, Slot):
        yield tree
    elif isinstance(tree, (list, tuple, dict)):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _slots(value)


def _filled(tree: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(tree, Slot):
        return tensors[tree.name]
    if isinstance(tree, dict):
        return {key: _filled(value, tensors) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_filled(value, tensors) for value in tree)
    return tree


def _encoded(tree: Any) -> Any:
    """Return a tree of arguments as JSON data: constants as they are, everything else as an object that says what."""
    if isinstance(tree, Slot):
        return {"input": tree.name}
    if isinstance(tree, dict):
        return {"dict": [[key, _encoded(value)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"list" if isinstance(tree, list) else "tuple": [_encoded(value) for value in tree]}
    return tree


def _decoded(data: Any) -> Any:
    if not isinstance(data, dict):
        if data is None or isinstance(data, (bool, int, float, str)):
            return data
        raise ValueError(f"{data!r} is no constant")
    ((kind, value),) = data.items()
    if kind == "input":
        return Slot(str(value))
    if kind == "dict":
        return {key: _decoded(item) for key, item in value}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_decoded(item) for item in value)
    raise ValueError(f"unknown kind of argument {kind!r}")


def written(path: Keys) -> str:
    """Return keys as Python writes them after a result's name."""
    return "".join(f"[{item!r}]" for item in path)
