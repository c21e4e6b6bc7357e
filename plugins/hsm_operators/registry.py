"""All operators, ours and those that others registered, and what is done with them as a set."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .operator import DOMAIN, Operator, base_name

if TYPE_CHECKING:
    import onnx

_PACKAGE = __name__.rpartition(".")[0]


@dataclass(frozen=True)
class Maths:
    """An operator's maths in plain PyTorch, from which the body of an operator without one is derived.

    Attributes:
        function: takes the operator's inputs in order and its attributes by name; returns its output, or a tuple.
        step: the same for one token, see `sequence.Steps`; None where the function is all there is.
    """

    function: Callable[..., Any]
    step: Any = None


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
_maths: dict[str, Maths] = {}
_origins: dict[str, Path] = {}


def register(
    operator: Operator, maths: Maths | None = None, *, replace: bool = False, origin: str | Path | None = None
) -> Operator:
    """Add an operator of another domain than ours to those that all commands know, and return it.

    Args:
        operator: its specification.
        maths: what a body is derived from; needed where the specification has none.
        replace: take the place of an operator of that name.
        origin: the file that defines it, beside which its kernels may be; what is no file is ignored.

    Raises:
        ValueError: the domain is ours, or another operator of that name is registered.
    """
    key = operator.domain, operator.name
    if operator.domain == DOMAIN and operator != OPERATORS.get(operator.name):
        raise ValueError(f"domain {DOMAIN!r} is hsm-export's own; give {operator.name} a domain of yours")
    if not replace and _registered.get(key, operator) != operator:
        raise ValueError(f"{operator.qualified_name} is registered already, with another specification")
    _registered[key] = operator
    if maths is not None:
        _maths[operator.qualified_name] = maths
    if origin is not None and Path(origin).is_file():
        _origins[operator.qualified_name] = Path(origin).resolve()
    return operator


def find(domain: str, name: str) -> Operator | None:
    """Return the operator that a node of that domain and name is, or None.

    The name may be that of a function that holds the values of some attributes, such as DecayMix__span3.
    """
    if domain in ("", "ai.onnx"):
        return None
    key = domain, base_name(name)
    if key not in _registered and domain != DOMAIN:
        _load_installed()
    return _registered.get(key)


def find_exact(domain: str, name: str) -> Operator | None:
    """Return the operator of that name among those that are registered by now, or None."""
    return _registered.get((domain, name))


def operators() -> tuple[Operator, ...]:
    """Return all operators, ours first."""
    _load_installed()
    return tuple(_registered.values())


def find_torch(overload: Any) -> Operator | None:
    """Return the operator that an overload of PyTorch computes, such as `torch.ops.acme.decay_mix.default`, or None."""
    namespace, name = getattr(overload, "namespace", ""), getattr(overload, "_opname", "")
    names = (f"{namespace}::{name}", f"{namespace}::{name}.{getattr(overload, '_overloadname', '')}")
    return next((o for o in _registered.values() if o.torch_qualified_name in names), None)


def maths_of(operator: Operator) -> Maths | None:
    """Return what an operator's body may be derived from; None where nobody gave it."""
    return _maths.get(operator.qualified_name)


def origin_of(operator: Operator) -> Path | None:
    """Return the file that defines a registered operator; None where it is in no file, or unknown."""
    return _origins.get(operator.qualified_name)


def _load_installed() -> None:
    from .discovery import load_installed

    load_installed()


def part_of(operator: Operator, part: str) -> ModuleType | None:
    """Return a module of an operator's folder, such as its `torch_op` or `oracle`; None where there is none."""
    package = _PACKAGES.get(operator.qualified_name)
    if package is None or find_spec(f"{package}.{part}") is None:
        return None
    return importlib.import_module(f"{package}.{part}")


def register_torch_operators() -> None:
    """Register our operators with PyTorch: import every family's `torch_op`."""
    for package in dict.fromkeys(_PACKAGES.values()):
        importlib.import_module(f"{package}.torch_op")


def make_node(
    name: str, inputs: list[str], outputs: list[str], node_name: str = "", **attributes: int | float | list[int]
) -> onnx.NodeProto:
    """Return a node that carries every attribute of its operator.

    Args:
        name: an operator of `OPERATORS`, or the qualified name of any operator, such as "acme::DecayMix".
        inputs: names of all inputs.
        outputs: names of all outputs.
        node_name: the node's own name.
        **attributes: all of the operator's attributes.

    Raises:
        ValueError: there is no such operator, or an input, output or attribute is missing or unknown.
    """
    import onnx

    domain, _, base = name.rpartition("::")
    operator = find(domain or DOMAIN, base)
    if operator is None:
        raise ValueError(f"there is no operator {name}")
    expected = {attribute.name for attribute in operator.attributes}
    if set(attributes) != expected:
        raise ValueError(f"{name} needs exactly the attributes {sorted(expected)}, got {sorted(attributes)}")
    if len(inputs) != len(operator.inputs) or len(outputs) != len(operator.outputs):
        raise ValueError(f"{name} needs {len(operator.inputs)} inputs and {len(operator.outputs)} outputs")
    node: onnx.NodeProto = onnx.helper.make_node(
        base, inputs, outputs, name=node_name, domain=operator.domain, **operator.plugin_attributes
    )
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def functions_for(model: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """Return the written bodies of the operators that a model uses, for its own opset version, sorted by name."""
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    found = (find(node.domain, node.op_type) for node in _nodes(model.graph))
    used = {(operator.domain, operator.name): operator for operator in found if operator is not None and operator.body}
    return [used[key].function(version) for key in sorted(used)]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def inline(model: onnx.ModelProto, *, known: bool = True) -> onnx.ModelProto:
    """Return the model with its model-local functions replaced by their nodes.

    Args:
        model: the model.
        known: functions that are bodies of operators, ours and registered ones, too.
    """
    import onnx.inliner

    chosen = [(item.domain, item.name) for item in model.functions if known or find(item.domain, item.name) is None]
    if not chosen:
        return model
    inlined: onnx.ModelProto
    if len(chosen) == len(model.functions):
        inlined = onnx.inliner.inline_local_functions(model)
    else:
        inlined = onnx.inliner.inline_selected_functions(model, chosen)
    return inlined
