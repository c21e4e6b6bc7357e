"""Trace a module with torch.export and translate it to ONNX, each mixer one node of domain `hsm`."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError
from .inputs import Arguments, Variadic
from .source import evaluating

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn
    from torch.export import ExportedProgram


def trace(module: nn.Module, arguments: Arguments) -> ir.Model:
    """Return the module as an ONNX model whose dynamic dimensions still have the tracer's names.

    The initialisers refer to the module's own tensors: nothing is copied.

    Raises:
        BadInputError: a dimension that should be dynamic is fixed by the module's code, its control flow depends on
            tensor values, or an operator has no ONNX counterpart.
    """
    import torch

    with torch.no_grad(), evaluating(module), quiet():
        return translate(_capture(module, arguments))


def _capture(module: nn.Module, arguments: Arguments) -> ExportedProgram:
    import torch

    args, kwargs = arguments.call()
    try:
        return torch.export.export(module, args, kwargs=kwargs, dynamic_shapes=_dynamic_shapes(arguments), strict=False)
    except Exception as error:
        raise _capture_error(error, module, arguments) from error


def _dynamic_shapes(arguments: Arguments) -> dict[str, Any]:
    """Return torch.export's `dynamic_shapes`: parameter -> {dimension: Dim}."""
    from torch.export import Dim

    shapes: dict[str, Any] = {
        name: tuple(None for _ in value) if isinstance(value, Variadic) else None
        for name, value in arguments.values.items()
    }
    shared = {name: Dim(name) for name in sorted(arguments.shared)}
    for spec in arguments.inputs:
        dims = {dim: shared.get(name, Dim.DYNAMIC) for dim, name in spec.dynamic.items()}
        dims |= dict.fromkeys(spec.free, Dim.AUTO)
        name, index = spec.argument
        if index is None:
            shapes[name] = dims
        else:
            shapes[name] = (*shapes[name][:index], dims, *shapes[name][index + 1 :])
    return shapes


def _capture_error(error: Exception, module: nn.Module, arguments: Arguments) -> BadInputError:
    """Turn torch.export's pages of advice into one sentence."""
    text, what = str(error), type(module).__name__
    fixed = re.search(r"marked L\['(\w+)'\](?:\[(\d+)\])?\.size\(\)\[(\d+)\] as dynamic .*? a constant \((\d+)\)", text)
    if fixed:
        name, index, dim, size = fixed[1], fixed[2], int(fixed[3]), fixed[4]
        argument = (name, None if index is None else int(index))
        spec = next((spec for spec in arguments.inputs if spec.argument == argument), None)
        name = name if spec is None else spec.name
        others = {} if spec is None else {d: n for d, n in spec.dynamic.items() if d != dim}
        return BadInputError(
            f"dimension {dim} of input {name!r} cannot be dynamic: {what}.forward works only with size {size} there",
            f"make forward work for every size, or fix the dimension with dynamic={{{name!r}: {others}}}",
        )
    if "data-dependent" in text:
        at = re.search(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*(.+)', text)
        where = f" at line {at[2]} of {at[1]}: `{at[4].strip()}`" if at else ""
        return BadInputError(
            f"{what}.forward takes a decision that depends on the values of a tensor{where}",
            "express it with torch.where, or with torch.cond",
        )
    return BadInputError(f"torch.export cannot trace {what}: {_first_line(text)}")


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
            custom_translation_table=translation_table(),
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
            f"torch.onnx cannot translate the model: {_first_line(reason[1] if reason else text)}"
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


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"


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
