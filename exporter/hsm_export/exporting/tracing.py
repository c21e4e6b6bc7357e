"""Trace a module with torch.export and translate it to ONNX, each mixer one node of domain `hsm`."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..alone import ALONE
from ..errors import BadInputError, first_line
from ..runtimes.reference_maths import without_autocast
from ..torch_model.source_call import Keys, written
from ..torch_model.source_call import tensors as results
from . import torchlib
from .complex_numbers import with_real_parts
from .float64_forms import numbers_of
from .inputs import LENGTH, Arguments, TraceInput
from .pooling import pooling_translations
from .recurrent import recurrent_translations, refuse_packed
from .refusals import FixedDimensionError, capture_error
from .splits import with_slices
from .substitutes import substituted

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Traced:
    """A module in ONNX's operators.

    Attributes:
        model: the graph; its initialisers refer to the module's own tensors, its dynamic dimensions still have the
            tracer's names.
        outputs: the keys that lead to each output in what the module returns.
        inputs: what it was traced with; of the dimensions that might be dynamic, those that the module's code allows.
        numbers: the floating-point numbers in the module's code.
        guards: what the trace asks of the inputs' sizes, in Python.
    """

    model: ir.Model
    outputs: tuple[Keys, ...]
    inputs: tuple[TraceInput, ...]
    numbers: frozenset[float]
    guards: tuple[str, ...]


def trace(module: nn.Module, arguments: Arguments) -> Traced:
    """Return the module as an ONNX model.

    Raises:
        BadInputError: a dimension that should be dynamic is fixed by the module's code, its control flow depends on
            tensor values, an output is complex, or an operator has no ONNX counterpart.
    """
    import torch

    with ALONE, torch.no_grad(), without_autocast(), quiet():
        program, outputs, arguments = _capture_loosely(module, arguments)
        inputs = _settled(arguments.inputs, program)
        moved = _last_axes(arguments.inputs, inputs)
        if moved is not None:
            program, outputs = _capture(module, replace(arguments, inputs=moved))
            inputs = _settled(moved, program)
        with_slices(program)
        with_real_parts(program)
        guards = tuple(getattr(program, "_guards_code", ()))
        return Traced(translate(program), outputs, inputs, numbers_of(program), guards)


def _settled(inputs: tuple[TraceInput, ...], program: ExportedProgram) -> tuple[TraceInput, ...]:
    """Return the inputs without the wishes for dynamic dimensions that the module's code did not allow."""
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    result = []
    for spec, name in zip(inputs, program.graph_signature.user_inputs, strict=True):
        sizes = shapes.get(str(name), spec.example.shape)
        # A size that the code fixed may still be a symbol's, of which the number is known.
        result.append(replace(spec, free={d: n for d, n in spec.free.items() if not str(sizes[d]).isdigit()}))
    return tuple(result)


def _last_axes(wished: tuple[TraceInput, ...], found: tuple[TraceInput, ...]) -> tuple[TraceInput, ...] | None:
    """Return inputs whose length is the last of three dimensions, as convolutions have it: (B,C,T); None for none.

    These are those whose second dimension is fixed by the module's code.
    """
    fixed = [
        before.example.dim() == 3 and before.free.get(1) == LENGTH and 1 not in after.free
        for before, after in zip(wished, found, strict=True)
    ]
    if not any(fixed):
        return None
    return tuple(replace(spec, free={2: LENGTH}) if last else spec for spec, last in zip(wished, fixed, strict=True))


def _capture_loosely(module: nn.Module, arguments: Arguments) -> tuple[ExportedProgram, tuple[Keys, ...], Arguments]:
    """Trace a module; where an input has no batch in front, let the module's code decide about its other dimensions.

    Such are the first states of recurrent layers (layers, batch, features), masks (length, length) and lists of edges.
    Some other input must have a batch, and nobody have named the dimension.
    """
    while True:
        try:
            return *_capture(module, arguments), arguments
        except FixedDimensionError as error:
            inputs = list(arguments.inputs)
            spec = inputs.pop(error.index)
            if spec.chosen or error.dim != 0 or not any(0 in other.dynamic for other in inputs):
                raise
            sizes = enumerate(spec.example.shape)
            free = {d: spec.free.get(d, f"{spec.name}_{d}") for d, size in sizes if d and size > 1}
            inputs.insert(error.index, replace(spec, dynamic={}, free=free))
            arguments = replace(arguments, inputs=tuple(inputs))


def _capture(module: nn.Module, arguments: Arguments) -> tuple[ExportedProgram, tuple[Keys, ...]]:
    """Trace a module as one that takes its tensors by position and returns a tuple of tensors."""
    import torch

    own, found = module.forward, dict[Keys, Any]()
    names = [spec.name for spec in arguments.inputs]

    def forward(*tensors: Any) -> Any:
        args, kwargs = arguments.call.arguments(dict(zip(names, tensors, strict=True)))
        result = own(*args, **kwargs)
        refuse_packed(result, type(module).__name__)
        found.clear()
        found.update(results(result))
        return tuple(found.values())

    examples = tuple(spec.example for spec in arguments.inputs)
    module.forward = forward
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            substituted(),
        ):  # of a refusal it prints the graph so far, pages of it
            program = torch.export.export(module, examples, dynamic_shapes=_dynamic_shapes(arguments), strict=False)
    except Exception as error:
        del module.forward
        raise capture_error(error, module, arguments) from error
    del module.forward
    if not found:
        raise BadInputError(f"{type(module).__name__} returns no tensor", "return what the file shall compute")
    for keys, value in found.items():
        if value.is_complex():
            raise BadInputError(
                f"the result{written(keys)} of {type(module).__name__} is complex, which ONNX files have no type for",
                "return torch.view_as_real(y)",
            )
    return program, tuple(found)


def _dynamic_shapes(arguments: Arguments) -> Any:
    """Return torch.export's `dynamic_shapes` of a forward(*tensors)."""
    from torch.export import Dim

    shared = {name: Dim(name) for name in sorted(arguments.shared)}
    shapes = []
    for spec in arguments.inputs:
        dims = {dim: shared.get(name, Dim.DYNAMIC) for dim, name in spec.dynamic.items()}
        shapes.append(dims | dict.fromkeys(spec.free, Dim.AUTO))
    return (tuple(shapes),)


@torchlib.read_once()
def translate(program: ExportedProgram) -> ir.Model:
    """Return a traced program in ONNX's operators and those that are registered.

    Raises:
        BadInputError: an operator has no ONNX counterpart.
    """
    import torch

    from hsm_operators import OPSET_VERSION, OperatorError, translation_table

    try:
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET_VERSION,
            custom_translation_table=translation_table() | recurrent_translations() | pooling_translations(),
            optimize=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        for cause in _causes(error):
            if isinstance(cause, OperatorError):
                raise BadInputError(cause.message, cause.hint or None) from error
        text = str(error)
        missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
        if missing:
            raise _unknown_operator(missing[1]) from error
        reason = re.search(r"## Exception summary\s+(?:<class '[^']+'>: )?(.+)", text)
        raise BadInputError(
            f"torch.onnx cannot translate the model: {first_line(reason[1] if reason else text)}"
        ) from error
    assert exported is not None
    return exported.model


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _unknown_operator(name: str) -> BadInputError:
    """Say how an operator that ONNX does not have can be exported: with a body of the user's."""
    from hsm_operators import OperatorError
    from hsm_operators.translation import overload_named

    qualified = name.replace(".", "::", 1) if "::" not in name else name
    try:
        arguments = overload_named(qualified.removesuffix(".default"))._schema.arguments
        tensors = ", ".join(f"{argument.name}[…]" for argument in arguments if str(argument.type) == "Tensor")
    except OperatorError:
        tensors = "x[…]"
    own = qualified.removesuffix(".default")
    return BadInputError(
        f"the PyTorch operator {own} has no ONNX counterpart",
        f'express it with other operators, or give it a body: hsm_export.operator_for("{own}", "{tensors} -> y[…]", '
        "function), where function is the same maths in plain PyTorch",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the tracer's log lines and warnings, which say nothing to the user of this tool."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
