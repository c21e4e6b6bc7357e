"""What an operator is: the one definition from which ONNX, PyTorch, C++, CUDA, TensorRT, tests and documents follow.

Rules that every body follows, because the runtimes force them:

- one body serves all values of the attributes: some parsers keep a single body per name, so a numeric attribute is
  arithmetic in the body and a structural difference is another operator; where a body is derived from PyTorch and holds
  the values themselves, each set of values is a function of its own name (see `variant_name`);
- no optional inputs, no attribute defaults: every node writes every attribute;
- floats are cast to float32 on entry and back to the input's type on exit, so that sums accumulate in float32 and
  bfloat16 runs where a runtime has no bfloat16 arithmetic;
- sizes are read from the inputs at run time; no length is built in, and no tensor is ever empty.

Nothing here imports ONNX or PyTorch; `schema.py` turns an operator into what ONNX knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from . import expression

if TYPE_CHECKING:
    import onnx
    from onnx.defs import OpSchema

DOMAIN = "hsm"
VERSION = 2
# Of the TensorRT plugins: it grows when a plugin could no longer run the nodes of older files, which no version of the
# operator set did so far.
PLUGIN_VERSION = "1"
# Of ONNX's own operators and of its file format in the files that are written: what the bodies need, no more, so that
# runtimes of some age take them (ONNX Runtime from 1.17 on).
OPSET_VERSION = 18
IR_VERSION = 8
PLUGIN_ATTRIBUTES = ("plugin_namespace", "plugin_version")

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
FLOAT = "tensor(float)"
INT64 = "tensor(int64)"
BOOL = "tensor(bool)"
UINT8 = "tensor(uint8)"
TYPES = ("T", FLOAT, INT64, BOOL, UINT8)
ATTRIBUTE_TYPES = ("int", "ints", "float")

# What separates an operator's name from the values that a derived body of it holds.
VARIANT = "__"


@dataclass(frozen=True)
class Dimension:
    """One size that an operator's shapes name.

    Attributes:
        name: as in the shapes, such as "B".
        field: its name in C++ and in sentences, such as "batch".
        least, most: the sizes that it may have.
        words: what a sentence calls it.
    """

    name: str
    field: str
    least: int = 0
    most: int = 2**59
    words: str = ""


# The dimensions that mixers share; an operator describes those that it gives another meaning.
DIMENSIONS = {
    dimension.name: dimension
    for dimension in (
        Dimension("B", "batch", words="rows"),
        Dimension("T", "length", words="tokens"),
        Dimension("D", "width", words="width"),
        Dimension("H", "heads", words="heads"),
        Dimension("d", "dim", 1, 2**20, "head width"),
        Dimension("e", "value_dim", 1, 2**20, "value width"),
        Dimension("R", "ring_rows", 1, words="rows of the ring"),
        Dimension("F", "features", words="features"),
        Dimension("E", "experts", words="experts"),
        Dimension("f", "head_dim", words="head width"),
    )
}


@dataclass(frozen=True)
class RowRange:
    """The values that an int64 input may have, checked in every row because kernels address memory with them.

    Attributes:
        least, most: expressions over the dimensions; `most` is inclusive.
        where: name of another int64 input; the range holds in the rows in which that one is positive. "" is every row.
        words: the range as a sentence says it; {expression} stands for a number.
        valid: name of another int64 input of the same shape, which has a range of its own: a number may be larger than
            `most` by what that one is below its largest, as padding needs no place. "" is none.
    """

    least: str
    most: str
    words: str
    where: str = ""
    valid: str = ""


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: name of the formal parameter.
        type: "T" (float32, float16 or bfloat16, the same for all of a node's values) or one ONNX type.
        shape: names of the dimensions; equal names are equal sizes.
        description: what it holds.
        rows: for an int64 input, the values that it may have.
    """

    name: str
    type: str
    shape: tuple[str, ...]
    description: str = ""
    rows: RowRange | None = None


@dataclass(frozen=True)
class Attribute:
    """One attribute; every node carries it.

    Attributes:
        name: the attribute's name, also the name of the PyTorch operator's argument.
        type: "int", "ints" or "float".
        description: what it means.
        least, most: the range of each number, inclusive; None is no bound. From 0 to 1 it is a flag: bool in PyTorch
            and C++.
        field: its name in C++; "" is `name`.
    """

    name: str
    type: str
    description: str = ""
    least: int | None = None
    most: int | None = None
    field: str = ""

    @property
    def is_flag(self) -> bool:
        """Whether it says yes or no."""
        return self.type == "int" and (self.least, self.most) == (0, 1)


@dataclass(frozen=True)
class Rule:
    """What sizes and attributes owe each other.

    Attributes:
        condition: an expression (see `expression`) that holds; not checked while a size that it reads is unknown.
        message: what a violation is, after the operator's name and a colon; {expression} stands for a number.
    """

    condition: str
    message: str


@dataclass(frozen=True)
class State:
    """A tensor that a sequence carries from call to call.

    Attributes:
        past, present: names of the input and the output.
        in_place: kernels work when both are one buffer, and then leave alone what need not change.
        capacity: name of the dimension that limits the tokens that a sequence may reach; "" is a state of fixed size.
        rollback: how tokens are taken back: "position" (moving the position back suffices), "slots" (the same, for as
            many tokens as the state has spare slots), or "snapshot" (only a copy taken before helps, as with sums).
    """

    past: str
    present: str
    in_place: bool = True
    capacity: str = ""
    rollback: str = "snapshot"


@dataclass(frozen=True)
class Cost:
    """What one call takes; expressions over dimensions and attributes, a multiply-add counting as two.

    Attributes:
        flops: floating-point operations of the call.
        formula: operations for each token, as documents print them.
        bytes: bytes moved, with the size of T as `T_bytes`; "" is all inputs and outputs once.
    """

    flops: str
    formula: str
    bytes: str = ""


@dataclass(frozen=True)
class Routing:
    """A discontinuous choice: near ties may be decided either way, so comparisons force or record it.

    Attributes:
        logits: name of the input whose largest numbers on the last axis are chosen, ties to the lower index.
        active: name of the attribute that says how many.
    """

    logits: str
    active: str


@dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes:
        name: the operator's name.
        description: what it computes, in one sentence or two.
        inputs: all of them required.
        outputs: all of them present.
        attributes: all of them written on every node, besides `plugin_namespace` and `plugin_version`.
        body: nodes in ONNX's text format, sorted so that each follows what it reads; "" is derived from the PyTorch
            function while a model is exported.
        loop_free_body: the same maths without Scan, for runtimes that know no loops; "" is `body`.
        dimensions: those that are not `DIMENSIONS`, or mean something else here.
        rules: what sizes and attributes owe each other.
        states: what a sequence carries from call to call.
        cost: operations and bytes; None is unknown.
        routing: the choice that it makes, if it makes one.
        details: what `inspect` tells of a node: names, and an attribute or an expression for each value.
        lengths: expressions over attributes and dimensions: numbers of tokens at which the maths takes another path, so
            that tests are worth most there.
        evaluations: arguments of the PyTorch operator that choose how to compute and not what, with the values that
            they may have, the body's own first; ONNX does not have them.
        ignored: arguments of the PyTorch operator that do not change the result.
        constant: name of an input that kernels may pack once when it is constant; "" is none.
        plugin: ours only: whether there is a plugin for TensorRT, a CUDA kernel; without one engines compile the body.
        kernel: name of the C++ functions that compute it; "" is `torch_name`. Several operators may share one.
        arguments: name of the C++ structure that the kernel takes; "" is the kernel's name in camel case and "Args".
        torch_name: name of the PyTorch operator; "" is the name in snake case.
        domain: the ONNX domain, also PyTorch's and TensorRT's namespace.
        version: of the domain's operator set.
        plugin_version: by which TensorRT finds the plugin, together with its name and the domain.
    """

    name: str
    description: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: tuple[Attribute, ...] = ()
    body: str = ""
    loop_free_body: str = ""
    dimensions: tuple[Dimension, ...] = ()
    rules: tuple[Rule, ...] = ()
    states: tuple[State, ...] = ()
    cost: Cost | None = None
    routing: Routing | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    lengths: tuple[str, ...] = ()
    evaluations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    constant: str = ""
    plugin: bool = True
    kernel: str = ""
    arguments: str = ""
    torch_name: str = ""
    domain: str = DOMAIN
    version: int = VERSION
    plugin_version: str = PLUGIN_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "torch_name", self.torch_name or snake_case(self.name))
        object.__setattr__(self, "kernel", self.kernel or self.torch_name)
        object.__setattr__(self, "arguments", self.arguments or f"{camel_case(self.kernel)}Args")
        _check(self)

    @property
    def torch_qualified_name(self) -> str:
        """Namespace and name of the PyTorch operator, which has no dots: odd_lab::decay_mix in the domain odd.lab."""
        return f"{self.domain.replace('.', '_')}::{self.torch_name}"

    @property
    def qualified_name(self) -> str:
        """Domain and name, such as "acme::DecayMix"."""
        return f"{self.domain}::{self.name}"

    @property
    def plugin_attributes(self) -> dict[str, str]:
        """The attributes by which TensorRT finds a plugin for the node."""
        return {"plugin_namespace": self.domain, "plugin_version": self.plugin_version}

    @cached_property
    def sizes(self) -> dict[str, Dimension]:
        """Its dimensions by name, in the order in which the shapes name them."""
        own = {dimension.name: dimension for dimension in self.dimensions}
        named = [name for port in (*self.inputs, *self.outputs) for name in port.shape]
        return {name: own.get(name) or DIMENSIONS.get(name) or Dimension(name, name) for name in named}

    @property
    def in_place(self) -> dict[int, int]:
        """The pairs of input and output, by index, that may be one buffer."""
        inputs, outputs = [port.name for port in self.inputs], [port.name for port in self.outputs]
        return {inputs.index(s.past): outputs.index(s.present) for s in self.states if s.in_place}

    def port(self, name: str) -> Port:
        """Return the input or output of that name."""
        return next(port for port in (*self.inputs, *self.outputs) if port.name == name)

    def function(self, opset_version: int = OPSET_VERSION, *, loop_free: bool = False) -> onnx.FunctionProto:
        """Return the body as a model-local function.

        Args:
            opset_version: version of ONNX's own operators; must be the model's.
            loop_free: the body without loops, where there is one.

        Raises:
            ValueError: there is no body; it is derived for each model that is exported.
        """
        if not self.body:
            raise ValueError(f"{self.qualified_name} has no body of its own; exporting a model derives one")
        from .schema import function

        return function(self, opset_version, loop_free=loop_free)

    @property
    def schema(self) -> OpSchema:
        """The operator's signature as ONNX describes its own, with inference of types and shapes."""
        from .schema import schema

        return schema(self)


def base_name(name: str) -> str:
    """Return the operator that a function is called after: DecayMix of DecayMix__span3."""
    return name.partition(VARIANT)[0] or name


def snake_case(name: str) -> str:
    """Return RunningMean as running_mean."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def camel_case(name: str) -> str:
    """Return running_mean as RunningMean."""
    return "".join(word.capitalize() for word in name.split("_"))


def _check(operator: Operator) -> None:
    """Refuse a specification that contradicts itself, by name."""

    def require(good: bool, problem: str) -> None:
        if not good:
            raise ValueError(f"operator {operator.domain}::{operator.name}: {problem}")

    inputs, outputs = {port.name: port for port in operator.inputs}, {port.name: port for port in operator.outputs}
    named = bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", operator.name)) and VARIANT not in operator.name[1:]
    require(named, "the name must be letters, digits and single _")
    require(bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]*", operator.domain)), f"{operator.domain!r} is not a domain")
    require(operator.version >= 1, "the version must be at least 1")
    require(bool(inputs) and bool(outputs), "it needs an input and an output")
    ports = [*operator.inputs, *operator.outputs]
    words = [*(port.name for port in ports), *(attribute.name for attribute in operator.attributes)]
    require(len(set(words)) == len(words), f"two of {words} have one name")
    bad = sorted(word for word in words if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", word))
    require(not bad, f"{bad} must be letters, digits and _")
    for port in ports:
        require(port.type in TYPES, f"{port.name} has the type {port.type!r}; it must be one of {', '.join(TYPES)}")
    known = {name for port in operator.inputs for name in port.shape}
    unknown = {name for port in operator.outputs for name in port.shape} - known
    require(not unknown, f"no input has the outputs' dimensions {sorted(unknown)}")
    for attribute in operator.attributes:
        good = attribute.type in ATTRIBUTE_TYPES
        require(good, f"attribute {attribute.name} must be of type {' or '.join(ATTRIBUTE_TYPES)}")
    values = known | {attribute.name for attribute in operator.attributes}
    costs = [operator.cost.flops, operator.cost.bytes] if operator.cost else []
    read = {f"the rule {rule.condition!r}": rule.condition for rule in operator.rules}
    read |= {f"the cost {text!r}": text for text in costs if text} | {
        f"lengths {text!r}": text for text in operator.lengths
    }
    read |= {f"the detail {name!r}": text for name, text in operator.details.items()}
    for what, text in read.items():
        stray = expression.names(text) - values - {"T_bytes"}
        require(not stray, f"{what} reads {sorted(stray)}, which it does not have")
    for state in operator.states:
        require(state.past in inputs and state.present in outputs, f"the state {state} names no input and output")
        require(
            inputs[state.past].shape == outputs[state.present].shape
            and inputs[state.past].type == outputs[state.present].type,
            f"{state.past} and {state.present} must have one type and shape",
        )
        require(state.rollback in ("position", "slots", "snapshot"), f"{state.rollback!r} is no kind of roll-back")
    if operator.routing:
        logits = inputs.get(operator.routing.logits)
        require(logits is not None and logits.type == FLOAT, f"routing: no float32 input {operator.routing.logits}")
        active = [attribute.type for attribute in operator.attributes if attribute.name == operator.routing.active]
        require(active == ["int"], f"routing: there is no int attribute {operator.routing.active}")
    require(not operator.constant or operator.constant in inputs, f"there is no input {operator.constant}")
