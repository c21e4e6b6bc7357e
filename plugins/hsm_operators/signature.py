"""An operator's signature in one line: `x[B,T,D], gain[D], lengths: int64[B] in 0..T -> y[B,T,D]`.

A port is a name, a type after a colon (T, the default, float32, int64 or bool) and the names of its dimensions.
`in a..b` is the range of an integer input. A dimension may say how large it is, `s[B,R=K-1,D]`, which becomes a rule.
An output that is called as an input, and has nothing else, is what that input becomes: a state. In ONNX, where no
two values share a name, it is called after it, `s_out`.

A library of kernels describes its operators by such a line too, see `signature`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import expression
from .errors import OperatorError
from .operator import BOOL, FLOAT, INT64, UINT8, Operator, Port, RowRange, Rule, State

_TYPES = {"T": "T", "float32": FLOAT, "int64": INT64, "bool": BOOL, "uint8": UINT8}
_PORT = re.compile(
    r"\s*(?P<name>\w+)\s*(?::\s*(?P<type>\w+)\s*)?(?:\[(?P<shape>[^\]]*)\]\s*)?(?:in\s+(?P<least>[^.]+)\.\.(?P<most>.+))?"
)


@dataclass
class Signature:
    """What a line says.

    Attributes:
        inputs, outputs: the ports in order.
        states: the inputs that are outputs too.
        rules: the sizes that dimensions must have.
    """

    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)


def parse(text: str, descriptions: Mapping[str, str] | None = None) -> Signature:
    """Return what a signature says.

    Args:
        text: the signature.
        descriptions: what each port holds, by its name.

    Raises:
        OperatorError: the text is no signature; says where.
    """
    described = dict(descriptions or {})
    before, arrow, after = text.partition("->")
    if not arrow or not before.strip() or not after.strip():
        raise OperatorError(f"{text!r} is not a signature", "write it as in x[B,T,D], gain[D] -> y[B,T,D]")
    signature = Signature()
    for part in _split(before):
        signature.inputs.append(_port(part, text, signature, described))
    given = {port.name: port for port in signature.inputs}
    for part in _split(after):
        if part.strip() in given:
            past = given[part.strip()]
            present = f"{past.name}_out"
            words = described.pop(present, f"{past.name} after the call.")
            signature.outputs.append(Port(present, past.type, past.shape, words))
            signature.states.append(State(past.name, present))
        else:
            signature.outputs.append(_port(part, text, signature, described))
    unknown = sorted(described)
    if unknown:
        raise OperatorError(f"descriptions of {', '.join(unknown)}, which {text!r} does not have")
    return signature


def _split(text: str) -> Iterator[str]:
    """Yield the parts between commas that are outside brackets and parentheses."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            yield part
            part = ""
        else:
            part += letter
    yield part


def _port(part: str, text: str, signature: Signature, described: dict[str, str]) -> Port:
    match = _PORT.fullmatch(part)
    if match is None or match["shape"] is None:
        raise OperatorError(
            f"{part.strip()!r} in {text!r} is no port", "a port is a name, a type and dimensions, as lengths: int64[B]"
        )
    kind = match["type"] or "T"
    if kind not in _TYPES:
        raise OperatorError(f"{part.strip()!r} has the type {kind}", f"types are {', '.join(_TYPES)}")
    shape = tuple(_dimension(size.strip(), part, signature) for size in _split(match["shape"]) if size.strip())
    rows = None
    if match["most"] is not None:
        if kind != "int64":
            raise OperatorError(f"{part.strip()!r} has a range", "only int64 inputs have one")
        least, most = match["least"].strip(), match["most"].strip()
        for bound in (least, most):
            _require_expression(bound, part)
        rows = RowRange(least, most, f"from {_spoken(least)} to {_spoken(most)}")
    return Port(match["name"], _TYPES[kind], shape, described.pop(match["name"], ""), rows)


def _spoken(bound: str) -> str:
    """Return a bound as a sentence says it: a number, or `T = 7`."""
    return bound if bound.isdecimal() else f"{bound} = {{{bound}}}"


def _dimension(size: str, part: str, signature: Signature) -> str:
    name, equals, value = (piece.strip() for piece in size.partition("="))
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise OperatorError(
            f"{part.strip()!r} has the dimension {size!r}, which is no name",
            "name it and say how large it is, as in w[D,K=3] or s[B,R=K-1,D]",
        )
    if equals:
        _require_expression(value, part)
        rule = Rule(f"{name} == {value}", f"{name} = {{{name}}} must be {value} = {{{value}}}")
        if rule not in signature.rules:
            signature.rules.append(rule)
    return name


def _require_expression(text: str, part: str) -> None:
    try:
        expression.parse(text)
    except expression.ExpressionError as error:
        raise OperatorError(f"{part.strip()!r}: {error}") from error


def signature(operator: Operator) -> str:
    """Return an operator as a library of kernels describes it, `acme::Mix(x:T(B,T,D))->(y:T(B,T,D)){span:int}`."""
    words = {onnx_type: word for word, onnx_type in _TYPES.items()}

    def ports(ports: Sequence[Port]) -> str:
        return ",".join(f"{port.name}:{words[port.type]}({','.join(port.shape)})" for port in ports)

    attributes = ",".join(f"{attribute.name}:{attribute.type}" for attribute in operator.attributes)
    return f"{operator.qualified_name}({ports(operator.inputs)})->({ports(operator.outputs)}){{{attributes}}}"
