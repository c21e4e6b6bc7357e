"""The way to add an operator from PyTorch: its name, its signature in a line, and its maths as a function.

    @hsm_export.operator("acme::DecayMix", "x[B,T,D], gain[D] -> y[B,T,D]")
    def decay_mix(x, gain, *, span: int):
        ...

From then on `decay_mix` is a `torch.library` operator: one node in the graphs of torch.compile and torch.export, with
gradients, and one node of domain `acme` in an exported file, which carries its body.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import registry
from .calling import callable_of
from .errors import OperatorError
from .operator import DOMAIN, Attribute, Cost, Dimension, Operator, Routing, Rule, State, camel_case
from .parameters import TAKES, attributes_of, plain_attribute
from .registry import Maths, find_exact
from .sequence import Steps, steps_of
from .signature import Signature, parse

_callables: dict[str, tuple[Any, Callable[..., Any]]] = {}


def operator(
    name: str,
    signature: str,
    function: Callable[..., Any] | None = None,
    *,
    step: Callable[..., Any] | bool = False,
    body: str = "",
    attributes: Sequence[Attribute] = (),
    rules: Sequence[Rule] = (),
    states: Sequence[State] = (),
    dimensions: Sequence[Dimension] = (),
    cost: Cost | None = None,
    routing: Routing | None = None,
    details: Mapping[str, str] | None = None,
    lengths: Sequence[str] = (),
    ports: Mapping[str, str] | None = None,
    time: str = "T",
    version: int = 1,
    description: str = "",
) -> Any:
    """Add an operator of one's own, and return it as a function for PyTorch.

    The function sees the inputs in the order of the signature, and the attributes by name. Floats of type T come as
    float32 (float64 where the call's are), and what it returns is cast back, as in the body. It may use its arguments
    and nothing else that changes: what it reads from outside becomes part of the operator.

    Args:
        name: domain and name, such as "acme::DecayMix". PyTorch's is "acme::decay_mix".
        signature: inputs and outputs, such as "x[B,T,D], gain[D] -> y[B,T,D]"; see `signature`.
        function: the maths of a whole sequence, (inputs…, attributes…) -> output or tuple of outputs. Its parameters
            that are no inputs are the attributes: int, bool, float or list[int], by their annotation. Or a module whose
            `forward` takes the inputs: its parameters become further inputs. None makes this a decorator, unless there
            is a step.
        step: the maths of one token, (states and inputs…, attributes…) -> new states…, outputs…; see `sequence`. With a
            function too, that one is the whole sequence, say in chunks. True makes this a decorator of a step.
        body: the maths in ONNX's text format, one for all values of the attributes; "" derives it from the function.
        attributes: ranges and descriptions of attributes, by their names.
        rules: what sizes and attributes owe each other.
        states: capacity and roll-back of states, in place of what the signature says of them.
        dimensions: the least and largest sizes of dimensions.
        cost, routing, details, lengths: as of `Operator`.
        ports: what each input and output holds, by name, for documents.
        time: name of the dimension that counts tokens, for a step.
        version: of the domain's operator set.
        description: what it computes; "" is the first line of the function's docstring.

    Returns:
        The function for PyTorch; its attribute `operator` is the specification. It takes the inputs in order and the
        attributes by name. States that are left out are zero, lengths that are left out are all tokens. Of a module,
        a module that calls the operator with its parameters. Without a function and a step, a decorator that does this
        to a function.

    Raises:
        OperatorError: name, signature and function contradict each other, or the name is taken; says where and how to
            put it right.
    """
    facts = {
        "rules": tuple(rules), "dimensions": tuple(dimensions), "cost": cost, "routing": routing,
        "details": dict(details or {}), "lengths": tuple(lengths), "version": version, "body": body,
    }  # fmt: skip
    parsed = parse(signature, ports)

    def define(whole: Callable[..., Any] | None, one: Callable[..., Any] | None) -> Callable[..., Any]:
        return _define(name, parsed, whole, one, attributes, states, time, description, facts)

    if function is not None and hasattr(function, "named_parameters"):
        from .module import OperatorModule, with_weights

        module: Any = function
        parsed, maths = with_weights(name, parsed, module)
        return OperatorModule(module, define(maths, None if isinstance(step, bool) else step))
    if function is None and isinstance(step, bool):
        return (lambda one: define(None, one)) if step else (lambda whole: define(whole, None))
    return define(function, None if isinstance(step, bool) else step)


def register(
    operator: Operator,
    function: Callable[..., Any] | None = None,
    *,
    step: Callable[..., Any] | None = None,
    time: str = "T",
) -> Any:
    """Add an operator whose specification is written out, such as that of a folder with kernels.

    Args:
        operator: the specification, of a domain of one's own.
        function, step, time: its maths, as of `operator`; without both, PyTorch's operator is somebody else's, or there
            is none and files that hold the operator are all that is known.

    Returns:
        The function for PyTorch; without a function and a step, the specification.

    Raises:
        OperatorError: specification and function contradict each other, or the name is taken.
    """
    if function is None and step is None:
        try:
            return registry.register(operator, origin=sys._getframe(1).f_code.co_filename)
        except ValueError as error:
            raise OperatorError(str(error)) from error
    parsed = Signature(list(operator.inputs), list(operator.outputs), list(operator.states))
    for maths, is_step in ((function, False), (step, True)):
        if maths is not None:
            found = {
                a.name
                for a in attributes_of(operator.qualified_name, parsed, maths, operator.attributes, is_step=is_step)
            }
            if found != {a.name for a in operator.attributes}:
                raise OperatorError(f"{operator.qualified_name}: its function has other attributes than it", TAKES)
    return _registered(operator, function, None if step is None else steps_of(operator, step, time))


def operator_for(
    torch_name: str,
    signature: str,
    function: Callable[..., Any] | None = None,
    *,
    name: str = "",
    body: str = "",
    ignored: Sequence[str] = (),
    ports: Mapping[str, str] | None = None,
    rules: Sequence[Rule] = (),
    description: str = "",
    **facts: Any,
) -> Operator:
    """Give an operator that PyTorch knows already, somebody else's, what it needs to be exported.

    Args:
        torch_name: the PyTorch operator, such as "flash::attention" or "flash::attention.overload".
        signature: its tensors; the names are those of the operator's arguments. All others are attributes.
        function: the same maths in plain PyTorch, (inputs…, attributes…), from which a body is derived.
        name: the ONNX operator's name; "" is PyTorch's in camel case. The domain is PyTorch's namespace.
        body: the maths in ONNX's text format, in place of a function.
        ignored: arguments that do not change the result.
        ports, rules, description, **facts: as of `operator` and `Operator`.

    Returns:
        The specification.

    Raises:
        OperatorError: there is no such operator, it changes its arguments, or its arguments do not fit the signature.
    """
    from .translation import overload_named

    overload = overload_named(torch_name)
    namespace, _, own = torch_name.partition("::")
    parsed = parse(signature, ports)
    found = Operator(
        name=name or camel_case(own.replace(".", "_")),
        description=description or f"PyTorch's {torch_name}.",
        inputs=tuple(parsed.inputs),
        outputs=tuple(parsed.outputs),
        attributes=_schema_attributes(torch_name, overload, parsed, ignored),
        body=body,
        rules=(*parsed.rules, *rules),
        states=tuple(parsed.states),
        torch_name=own,
        domain=namespace,
        ignored=tuple(ignored),
        **facts,
    )
    if function is None and not body:
        raise OperatorError(
            f"{torch_name} needs its maths",
            "give a function of plain PyTorch operations, or body= in ONNX's text format",
        )
    return registry.register(found, None if function is None else Maths(function), replace=True)


def _schema_attributes(
    torch_name: str, overload: Any, parsed: Signature, ignored: Sequence[str]
) -> tuple[Attribute, ...]:
    """Return the attributes that a PyTorch operator's arguments besides the tensors are."""
    arguments = {argument.name: argument for argument in overload._schema.arguments}
    names = [port.name for port in parsed.inputs]
    missing = [name for name in (*names, *ignored) if name not in arguments]
    if missing:
        raise OperatorError(
            f"{torch_name} has no argument {', '.join(missing)}", f"its arguments are {', '.join(arguments)}"
        )
    if overload._schema.is_mutable:
        raise OperatorError(f"{torch_name} changes its arguments, which a node of ONNX cannot")
    count = len(overload._schema.returns)
    if count != len(parsed.outputs):
        raise OperatorError(f"{torch_name} returns {count} tensors, its signature has {len(parsed.outputs)} outputs")
    kinds = {"int": ("int", False), "bool": ("int", True), "float": ("float", False), "List[int]": ("ints", False)}
    attributes = []
    for argument in arguments.values():
        if argument.name in names or argument.name in ignored:
            continue
        if str(argument.type) in kinds:
            attributes.append(plain_attribute(argument.name, kinds[str(argument.type)]))
        elif not argument.has_default_value():
            raise OperatorError(
                f"argument {argument.name} of {torch_name} is of type {argument.type}, which is no attribute",
                "name it among ignored= if the result does not depend on it",
            )
    return tuple(attributes)


def _define(
    name: str,
    parsed: Signature,
    function: Callable[..., Any] | None,
    step: Callable[..., Any] | None,
    attributes: Sequence[Attribute],
    states: Sequence[State],
    time: str,
    description: str,
    facts: dict[str, Any],
) -> Callable[..., Any]:
    domain, colons, own = name.partition("::")
    if not colons or not domain or not own:
        raise OperatorError(f"{name!r} is no name of an operator", "give it a domain of yours: acme::DecayMix")
    if domain == DOMAIN:
        raise OperatorError(f"domain {DOMAIN!r} is hsm-export's own", f"give {own} a domain of yours")
    maths = function or step
    assert maths is not None
    found = attributes_of(name, parsed, maths, attributes, is_step=function is None)
    if function is not None and step is not None:
        theirs = attributes_of(name, parsed, step, attributes, is_step=True)
        if theirs != found:
            raise OperatorError(f"{name}: its step has other attributes than its function")
    by_past = {state.past: state for state in parsed.states} | {state.past: state for state in states}
    rules = (*parsed.rules, *facts.pop("rules"))
    try:
        spec = Operator(
            name=own,
            domain=domain,
            description=description or _first_line(maths),
            inputs=tuple(parsed.inputs),
            outputs=tuple(parsed.outputs),
            attributes=found,
            states=tuple(by_past.values()),
            rules=rules,
            **facts,
        )
    except OperatorError:
        raise
    except ValueError as error:
        raise OperatorError(str(error)) from error
    steps = None if step is None else steps_of(spec, step, time)
    return _registered(spec, function, steps)


def _registered(spec: Operator, function: Callable[..., Any] | None, steps: Steps | None) -> Callable[..., Any]:
    """Register an operator with PyTorch and with all commands; the same definition again is the same operator."""
    from .registration import register_operator

    maths = Maths(function or steps or _nothing, steps)
    source = function if function is not None else steps.step if steps is not None else _nothing
    identity = _identity(source)
    known = _callables.get(spec.qualified_name)
    if known is not None and find_exact(spec.domain, spec.name) == spec and known[0] == identity:
        return known[1]
    _require_free(spec, known, identity)
    try:
        torch_operator = register_operator(spec, maths.function)
    except RuntimeError as error:  # a name that PyTorch does not take, such as "while"
        first = str(error).strip().splitlines()[0]
        raise OperatorError(f"PyTorch does not take {spec.torch_qualified_name}: {first}") from error
    registry.register(spec, maths, replace=True, origin=_file_of(source))
    called = callable_of(spec, torch_operator, source, steps)
    _callables[spec.qualified_name] = identity, called
    return called


def _nothing(*arguments: Any) -> Any:
    raise AssertionError("an operator has a function or a step")


def _identity(function: Callable[..., Any]) -> tuple[Any, ...]:
    """Return what the same function has in two definitions: where it stands, its code, and what it captures."""
    code = getattr(function, "__code__", None)
    structure = getattr(function, "structure", None)
    if structure is not None:  # of a module
        return "module", structure[0][1], "", structure
    if code is None:
        return type(function).__module__, type(function).__qualname__, id(function), ()
    captured = tuple(id(cell.cell_contents) for cell in (getattr(function, "__closure__", None) or ()))
    return function.__module__, function.__qualname__, code, captured


def _file_of(function: Callable[..., Any]) -> str | None:
    """Return the file that a function, or the module that it was made of, is defined in."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else str(code.co_filename)


def _require_free(spec: Operator, known: tuple[Any, Callable[..., Any]] | None, identity: tuple[Any, ...]) -> None:
    """Let a definition take the place of an earlier one only where it is the same one, edited."""
    taken = find_exact(spec.domain, spec.name)
    if taken is None:
        return
    if known is None or known[0][:2] != identity[:2]:
        by = f" by {known[0][0]}.{known[0][1]}" if known else ""
        raise OperatorError(f"{spec.qualified_name} is defined already{by}", "give one of the two another name")
    if known[0][2] == identity[2] and known[0][3] != identity[3]:
        raise OperatorError(
            f"{spec.qualified_name} is defined again by a function that captures other values, or by another module",
            "define it once, and pass what it depends on as inputs and attributes, or give the other one a name",
        )


def _first_line(function: Callable[..., Any]) -> str:
    lines = (inspect.getdoc(function) or "").strip().splitlines()
    return lines[0] if lines else ""
