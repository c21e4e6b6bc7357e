"""From PyTorch operators to nodes of their ONNX operators, for torch's ONNX exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .operator import Operator
from .registry import operators, register_torch_operators


def overload_of(operator: Operator) -> Any:
    """Return the PyTorch operator; those of ours must have been registered."""
    import torch

    return getattr(getattr(torch.ops, operator.domain), operator.torch_name).default


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return `custom_translation_table` for `torch.onnx.export(dynamo=True)`: each operator becomes one node.

    The functions of `functions_for` must be appended to the exported model; torch's exporter would inline them.
    """
    register_torch_operators()
    overloads = [(overload_of(operator), operator) for operator in operators()]
    return {overload: _translation(operator, overload) for overload, operator in overloads}


def _translation(operator: Operator, overload: Any) -> Callable[..., Any]:
    """Return the function that records one node; arguments that the opset does not have (`form`) are dropped."""
    from onnxscript import values

    node = values.Op(values.Opset(operator.domain, operator.version), operator.name, operator.schema)
    argument_names = [argument.name for argument in overload._schema.arguments]

    def translate(*arguments: Any, **keywords: Any) -> Any:
        bound = dict(zip(argument_names, arguments, strict=False)) | keywords
        attributes = {attribute.name: _attribute_value(bound[attribute.name]) for attribute in operator.attributes}
        inputs = (bound[port.name] for port in operator.inputs)
        return node(*inputs, **attributes, **operator.plugin_attributes)

    return translate


def _attribute_value(value: Any) -> int | list[int]:
    """ONNX has no booleans among its attributes."""
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else int(value)
