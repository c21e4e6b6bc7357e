"""The body of an operator without one: its PyTorch function, traced with every size that the model leaves open.

Integer attributes stay attributes of the node where the function's code leaves their values open; what it looks at is
held by the body, which then serves these values only. The same is true of sizes that are fixed in the model.
"""

from __future__ import annotations

import inspect
import itertools
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsm_operators import OperatorError
from hsm_operators.expression import value as value_of
from hsm_operators.operator import BOOL, INT64, VARIANT, Operator, Port
from hsm_operators.sizes import equations, require_rules, with_implied

from ..alone import ALONE
from ..errors import BadInputError
from .traced_function import Attributes, Program, agrees, captured_parameters, failed_guard, listed, module_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch.export import ExportedProgram

Sizes = Mapping[str, int]

_PRIMES = (3, 7, 5, 11, 13, 17, 19)
_SEARCHED = 200
_LARGEST_EXAMPLE = 64
# Sizes on which a traced function is held to the one that it was traced from, besides those of the trace.
_TRIED = (1, 2, 17)
# What torch traces for the sizes at hand only.
_NOT_TRACED = {"associative_scan"}
_LONGEST_SUFFIX = 60
_LARGEST_CONSTANT = 1 << 20  # bytes


@dataclass(frozen=True)
class Call:
    """What one node asks of its operator's body.

    Attributes:
        attributes: the node's attributes.
        sizes: the sizes that the model fixes; the others are dynamic.
    """

    attributes: Attributes
    sizes: Sizes


@dataclass(frozen=True)
class Traced:
    """A function as a graph.

    Attributes:
        model: the float32 graph; its inputs are the function's tensors and then the attributes of `open`.
        open: the integer attributes that are inputs.
        held: the attributes whose values the graph holds.
        fixed: the sizes that the graph holds.
        sizes: the sizes that it was traced with.
        shapes: each size as the trace knows it: a symbol, a formula of symbols where the code ties it to others, or a
            number.
        program: the traced function, which checks what it is called with.
    """

    model: ir.Model
    open: tuple[str, ...]
    held: Attributes
    fixed: Sizes
    sizes: Sizes
    shapes: Mapping[str, Any]
    program: Program

    def serves(self, call: Call) -> bool:
        """Say whether the graph holds for a call's attributes and sizes, as far as these are known beforehand."""
        held = all(call.attributes[name] == value for name, value in self.held.items())
        return held and all(call.sizes.get(name) == size for name, size in self.fixed.items())

    @property
    def suffix(self) -> str:
        """What tells a function that holds these values from others of its operator: "__span3", or a checksum."""
        text = "_".join(f"{name}{_spelled(value)}" for name, value in {**self.held, **self.fixed}.items())
        if len(text) > _LONGEST_SUFFIX:
            text = f"{zlib.crc32(text.encode()):08x}"
        return VARIANT + text if text else ""


def _spelled(value: Any) -> str:
    """Return an attribute's value with letters, digits and _ alone."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    text = "_".join(str(int(number)) if isinstance(number, (bool, int)) else repr(number) for number in numbers)
    return re.sub(r"[^A-Za-z0-9_]", "_", text.replace("-", "m").replace(".", "p"))


class Traceable:
    """A function that is traced for one call, and the examples that it is traced with.

    Args:
        operator: whose function it is.
        function: takes `ports` in order and the attributes by name.
        ports: the function's tensors.
        call: what a node asks for.
    """

    def __init__(self, operator: Operator, function: Any, ports: Sequence[Port], call: Call) -> None:
        self._operator = operator
        self._function = function
        self._ports = tuple(ports)
        self._call = call

    def trace(self) -> Traced:
        """Return the function as a graph.

        Raises:
            BadInputError: it cannot be traced, or holds for some sizes only; says which and what to do.
        """
        *others, last = self._assignments()
        for sizes in others:
            try:
                return self._trace(sizes)
            except BadInputError:
                continue  # the code may need the very sizes that the model has
        return self._trace(last)

    def _assignments(self) -> list[dict[str, int]]:
        """Return sizes to trace with: the model's own; before them with 2 in place of 1, which a trace would fix."""
        own = self._example_sizes()
        larger = self._larger(own)
        names = dict.fromkeys(name for port in self._ports for name in port.shape)
        chosen = [own] if larger is None else [larger, own]
        return [{name: sizes[name] for name in names} for sizes in chosen]

    def _example_sizes(self) -> dict[str, int]:
        """Return the model's own sizes, with small primes where they are dynamic."""
        rules = equations(self._operator)
        known = with_implied(rules, {**self._call.attributes, **self._call.sizes})
        free = [name for name in self._operator.sizes if name not in known]
        draw = random.Random(0)
        candidates = itertools.chain(
            itertools.islice(itertools.permutations(_PRIMES, len(free)), _SEARCHED),
            ([draw.randint(2, _LARGEST_EXAMPLE) for _ in free] for _ in range(_SEARCHED)),
        )
        for chosen in candidates:
            # A rule may compute one of the free sizes from another.
            for count in range(len(free), -1, -1):
                sizes = with_implied(rules, {**known, **dict(zip(free[:count], chosen, strict=False))})
                if set(free) <= set(sizes) and self._allowed(sizes):
                    return {name: sizes[name] for name in self._operator.sizes}
        raise BadInputError(
            f"{self._operator.qualified_name}: no example sizes up to {_LARGEST_EXAMPLE} fulfil its rules",
            "do its rules contradict each other?",
        )

    def _larger(self, own: Mapping[str, int]) -> dict[str, int] | None:
        """Return the sizes with 2 in place of 1 where the rules allow it; None where there is no such size."""
        larger = {name: max(2, size) for name, size in own.items()}
        return larger if larger != own and self._allowed(larger) else None

    def _allowed(self, sizes: Mapping[str, int]) -> bool:
        try:
            require_rules(self._operator, {**self._call.attributes, **sizes})
        except (ValueError, KeyError, ZeroDivisionError):
            return False
        return True

    def _trace(self, sizes: dict[str, int]) -> Traced:
        import torch

        from .tracing import quiet, translate

        with ALONE, torch.no_grad(), quiet():
            opened, program = self._opened(sizes)
            self._refuse_weights(program)
            try:
                model = translate(program)
            except BadInputError:
                if not opened:
                    raise
                # What ONNX has for numbers alone, such as a power, wants the number.
                opened, program = (), self._capture(sizes, ())
                model = translate(program)
        held = {name: value for name, value in self._call.attributes.items() if name not in opened}
        shapes = self._shapes(self._placeholders(program, opened))
        fixed = {name: int(size) for name, size in shapes.items() if not getattr(size, "free_symbols", None)}
        traced = Traced(model, opened, held, fixed, sizes, shapes, Program(program, opened))
        self.verify(traced)
        return traced

    def _opened(self, sizes: dict[str, int]) -> tuple[tuple[str, ...], ExportedProgram]:
        """Trace with as many open attributes as the code allows; return which, and the trace."""
        opened = self._numbers()
        while opened:
            try:
                program = self._capture(sizes, opened)
            except BadInputError:
                break  # an attribute may be used as only a number can be
            values = self._placeholders(program, opened)[len(self._ports) :]
            still = tuple(n for n, v in zip(opened, values, strict=True) if v.node.maybe_as_int() is None)
            if still == opened:
                return opened, program
            opened = still
        return (), self._capture(sizes, ())

    def _placeholders(self, program: ExportedProgram, opened: Sequence[str]) -> list[Any]:
        """Return what a trace knows of its inputs, the tensors and then the open attributes."""
        nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
        return [node.meta["val"] for node in nodes[len(nodes) - len(self._ports) - len(opened) :]]

    def _numbers(self) -> tuple[str, ...]:
        """Return the attributes that may stay open: numbers of which a trace does not take 0 and 1 for special."""
        numbers = [a.name for a in self._operator.attributes if a.type == "int" and not a.is_flag]
        return tuple(name for name in numbers if self._call.attributes[name] > 1)

    def _capture(self, sizes: dict[str, int], opened: Sequence[str]) -> ExportedProgram:
        import torch
        from torch.export import Dim

        held = {name: value for name, value in self._call.attributes.items() if name not in opened}
        module = module_of(self._function, len(self._ports), opened, held)
        tensors = self._examples(sizes)
        shapes = [
            {
                axis: Dim.AUTO if name in self._call.sizes else Dim.DYNAMIC
                for axis, name in enumerate(port.shape)
                if tensor.shape[axis] > 1
            }
            for port, tensor in zip(self._ports, tensors, strict=True)
        ]
        arguments = (*tensors, *(self._call.attributes[name] for name in opened))
        dynamic = ((*shapes, *(Dim.AUTO for _ in opened)),)
        try:
            return torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # whatever the function raises
            raise self._explain(error) from error

    def _examples(self, sizes: Sizes, seed: int = 0) -> list[torch.Tensor]:
        import torch

        generator = torch.Generator().manual_seed(seed)
        found = []
        for port in self._ports:
            shape = [sizes[name] for name in port.shape]
            if port.type == INT64:
                low, high = self._range(port, sizes)
                found.append(torch.randint(low, high + 1, shape, generator=generator))
            elif port.type == BOOL:
                found.append(torch.rand(shape, generator=generator) < 0.5)
            else:
                found.append(torch.randn(shape, generator=generator))
        return found

    def _range(self, port: Port, sizes: Sizes) -> tuple[int, int]:
        if port.rows is None:
            return 0, 0
        known = {**self._call.attributes, **sizes}
        low = int(value_of(port.rows.least, known))
        return low, max(low, min(int(value_of(port.rows.most, known)), 1000))

    def _shapes(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return each size as a trace knows it, a number or a formula."""
        found: dict[str, Any] = {}
        for port, value in zip(self._ports, values, strict=False):
            for name, size in zip(port.shape, value.shape, strict=True):
                number = size if isinstance(size, int) else size.node.maybe_as_int()
                found.setdefault(name, size.node.expr if number is None else number)
        return found

    def _refuse_weights(self, program: ExportedProgram) -> None:
        """Refuse tensors from outside the function that belong into its signature."""
        trained = {parameter.data_ptr() for parameter in captured_parameters(self._function)}
        for value in program.constants.values():
            size = getattr(value, "nbytes", 0)
            parameter = size > 0 and value.data_ptr() in trained
            if size > _LARGEST_CONSTANT or parameter:
                what = "a parameter" if parameter else f"a tensor of {size:,} bytes"
                raise BadInputError(
                    f"{self._operator.qualified_name}: its function captures {what} of shape {tuple(value.shape)}",
                    "pass it as an input of the operator",
                )

    def verify(self, traced: Traced) -> None:
        """Hold a trace to its function on other sizes, with the call's attributes.

        Raises:
            BadInputError: the function takes another way there, which its trace does not know.
        """
        import torch

        for other in self._other_sizes(traced):
            tensors = self._examples(other)
            try:
                with torch.no_grad():
                    expected = listed(self._function(*tensors, **self._call.attributes))
            except Exception:
                continue  # the function does not take such a size either
            if not agrees(traced.program, tensors, self._call.attributes, expected):
                raise self._differs(traced, other, failed_guard(traced.program, tensors, self._call.attributes))

    def _other_sizes(self, traced: Traced) -> Iterator[dict[str, int]]:
        """Yield the sizes to try: those of the trace, then others of one dimension and of what is tied to it."""
        yield dict(traced.sizes)
        every = dict.fromkeys(self._operator.sizes, 3) | dict(traced.sizes)
        symbols = {
            shape: traced.sizes[name] for name, shape in traced.shapes.items() if getattr(shape, "is_symbol", False)
        }
        for symbol, size in itertools.product(symbols, _TRIED):
            values = symbols | {symbol: size}
            tied = {n: shape.subs(values) for n, shape in traced.shapes.items() if n not in traced.fixed}
            other = dict(traced.sizes) | {n: int(found) for n, found in tied.items() if found.is_Integer and found > 0}
            if self._allowed({**every, **other}):
                yield other

    def _differs(self, traced: Traced, sizes: Sizes, why: str) -> BadInputError:
        changed = [f"{name} = {size}" for name, size in sizes.items() if size != traced.sizes[name]]
        where = f"where {', '.join(changed)}" if changed else "with these attributes"
        return BadInputError(
            f"{self._operator.qualified_name}: its function takes another way {where}{why}",
            "write it so that one way serves all sizes, or give the operator a rule that excludes these",
        )

    def _explain(self, error: Exception) -> BadInputError:
        """Turn torch.export's pages into a sentence."""
        name, text = self._operator.qualified_name, str(error)
        code = getattr(inspect.unwrap(self._function), "__code__", None)
        called = sorted(_NOT_TRACED & set(() if code is None else (*code.co_names, *code.co_freevars)))
        if called:
            return BadInputError(
                f"{name}: its function calls torch's {called[0]}, which no body can be derived from",
                "give step= for a loop over tokens, or write it with torch's scan, cumulative sums or in chunks",
            )
        fixed = re.search(
            r"marked L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\] as dynamic .*? a constant \((\d+)\)", text, re.S
        ) or re.search(r"\[(\d+)\]\S*\.size\(\)\[(\d+)\] as dynamic .*? a constant \((\d+)\)", text, re.S)
        if fixed:
            dimension = self._ports[int(fixed[1])].shape[int(fixed[2])]
            return BadInputError(
                f"{name}: its function works for one size of {dimension} only once it is traced, {fixed[3]}",
                f"a Python loop over {dimension} does that: give step= for a loop over tokens, or write it with torch "
                "operations or torch's scan",
            )
        if isinstance(error, OperatorError):
            return BadInputError(error.message, error.hint or None)
        if "data-dependent" in text:
            return BadInputError(
                f"{name}: its function takes a decision that depends on the values of a tensor",
                "express it with torch.where",
            )
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return BadInputError(f"{name}: its function cannot be traced: {type(error).__name__}: {first}")
