"""From PyTorch operators to nodes of their ONNX operators, for torch's ONNX exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import OperatorError
from .operator import Operator, Port
from .registry import operators, register_torch_operators


def overload_of(operator: Operator) -> Any:
    """Return the PyTorch operator, None where there is none; those of ours must have been registered."""
    try:
        return overload_named(operator.torch_qualified_name)
    except OperatorError:
        return None


def overload_named(name: str) -> Any:
    """Return the PyTorch operator of a name such as "acme::decay_mix" or "acme::decay_mix.overload".

    Raises:
        OperatorError: there is none, or it has several overloads.
    """
    import torch

    namespace, _, rest = name.partition("::")
    own, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), own, None) if namespace and own else None
    if packet is None:
        raise OperatorError(f"PyTorch knows no operator {name}", "import the package that registers it first")
    known = packet.overloads()
    chosen = overload or ("default" if "default" in known else known[0] if len(known) == 1 else "")
    if chosen not in known:
        raise OperatorError(f"{name} is one of several: {', '.join(f'{namespace}::{own}.{item}' for item in known)}")
    return getattr(packet, chosen)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return `custom_translation_table` for `torch.onnx.export(dynamo=True)`: each operator becomes one node.

    The functions of `functions_for` must be appended to the exported model; torch's exporter would inline them.
    """
    register_torch_operators()
    overloads = [(overload_of(operator), operator) for operator in operators()]
    return {overload: _translation(operator, overload) for overload, operator in overloads if overload is not None}


def _translation(operator: Operator, overload: Any) -> Callable[..., Any]:
    """Return the function that records one node."""
    from onnxscript import values

    node = values.Op(values.Opset(operator.domain, operator.version), operator.name, operator.schema)
    declared = overload._schema.arguments
    defaults = {argument.name: argument.default_value for argument in declared if argument.has_default_value()}
    taken = {port.name for port in operator.inputs} | {attribute.name for attribute in operator.attributes}
    dropped = {*operator.ignored, *operator.evaluations}

    def translate(*arguments: Any, **keywords: Any) -> Any:
        bound = defaults | dict(zip((argument.name for argument in declared), arguments, strict=False)) | keywords
        for name in bound.keys() - taken - dropped:
            if bound[name] != defaults.get(name, bound[name]):
                raise OperatorError(
                    f"{operator.qualified_name} is called with {name} = {bound[name]!r}, which its node cannot say",
                    "name it in its signature, or among ignored= if the result does not depend on it",
                )
        attributes = {a.name: _attribute_value(bound[a.name], a.type) for a in operator.attributes}
        inputs = [_input_value(bound[port.name], port) for port in operator.inputs]
        return node(*inputs, **attributes, **operator.plugin_attributes)

    return translate


def _input_value(value: Any, port: Port) -> Any:
    """Return a node's input; numbers of rows may be of any integer type in PyTorch, and are int64 in ONNX."""
    import onnx_ir as ir
    from onnxscript import values

    if port.type != "tensor(int64)" or getattr(value, "dtype", None) in (None, ir.DataType.INT64):
        return value
    cast = values.Op(values.Opset("", 18), "Cast")
    return cast(value, to=ir.DataType.INT64.value)


def _attribute_value(value: Any, kind: str) -> int | float | list[int]:
    """ONNX has no booleans among its attributes."""
    if kind == "ints":
        return [int(item) for item in value]
    return float(value) if kind == "float" else int(value)
