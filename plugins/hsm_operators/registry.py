"""All operators, ours and those that others registered, and what is done with them as a set."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .operator import DOMAIN, Operator

if TYPE_CHECKING:
    import onnx

_PACKAGE = __name__.rpartition(".")[0]


def families() -> Iterator[str]:
    """Yield the packages that specify our operators, one a family."""
    here = Path(__file__).parent
    for module in pkgutil.iter_modules([str(here)]):
        if module.ispkg and (here / module.name / "spec.py").is_file():
            yield f"{_PACKAGE}.{module.name}"


def _own() -> Iterator[tuple[Operator, str]]:
    for package in families():
        for operator in importlib.import_module(f"{package}.spec").OPERATORS:
            yield operator, package


# The package of each operator of ours, and the operators by name.
_PACKAGES = {operator.qualified_name: package for operator, package in _own()}
OPERATORS: dict[str, Operator] = {operator.name: operator for operator, _ in _own()}
_registered: dict[tuple[str, str], Operator] = {(DOMAIN, name): operator for name, operator in OPERATORS.items()}


def register(operator: Operator) -> Operator:
    """Add an operator of another domain than ours to those that all commands know, and return it.

    Raises:
        ValueError: the domain is ours, or another operator of that name is registered.
    """
    known = _registered.setdefault((operator.domain, operator.name), operator)
    if operator.domain == DOMAIN and known is not OPERATORS.get(operator.name):
        raise ValueError(f"domain {DOMAIN!r} is hsm-export's own; give {operator.name} a domain of yours")
    if known != operator:
        raise ValueError(f"{operator.qualified_name} is registered already, with another specification")
    return known


def find(domain: str, name: str) -> Operator | None:
    """Return the operator of that domain and name, or None."""
    return _registered.get((domain, name))


def operators() -> tuple[Operator, ...]:
    """Return all operators, ours first."""
    return tuple(_registered.values())


def part_of(operator: Operator, part: str) -> ModuleType:
    """Return a module of an operator's folder, such as its `torch_op` or `oracle`."""
    return importlib.import_module(f"{_PACKAGES[operator.qualified_name]}.{part}")


def register_torch_operators() -> None:
    """Register our operators with PyTorch: import every family's `torch_op`."""
    for package in dict.fromkeys(_PACKAGES.values()):
        importlib.import_module(f"{package}.torch_op")


def make_node(
    name: str, inputs: list[str], outputs: list[str], node_name: str = "", **attributes: int | list[int]
) -> onnx.NodeProto:
    """Return a node of domain `hsm` that carries every attribute.

    Args:
        name: an operator of `OPERATORS`.
        inputs: names of all inputs.
        outputs: names of all outputs.
        node_name: the node's own name.
        **attributes: all of the operator's attributes.

    Raises:
        ValueError: an input, output or attribute is missing or unknown.
    """
    import onnx

    operator = OPERATORS[name]
    expected = {attribute.name for attribute in operator.attributes}
    if set(attributes) != expected:
        raise ValueError(f"{name} needs exactly the attributes {sorted(expected)}, got {sorted(attributes)}")
    if len(inputs) != len(operator.inputs) or len(outputs) != len(operator.outputs):
        raise ValueError(f"{name} needs {len(operator.inputs)} inputs and {len(operator.outputs)} outputs")
    node: onnx.NodeProto = onnx.helper.make_node(
        name, inputs, outputs, name=node_name, domain=operator.domain, **operator.plugin_attributes
    )
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def functions_for(model: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """Return the bodies of the operators that a model uses, for the model's own opset version, sorted by name."""
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    used = {(node.domain, node.op_type) for node in _nodes(model.graph)} & set(_registered)
    return [_registered[key].function(version) for key in sorted(used)]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every model-local function replaced by its nodes."""
    import onnx.inliner

    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    return inlined
