"""What is tested: an operator, sizes and attributes that it takes, and its definition in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import expression
from ..case import Case
from ..operator import BOOL, INT64, UINT8, Operator, Port
from ..registry import OPERATORS, maths_of, part_of

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]

# Tokens that a carried state has seen.
_PAST = 5
# Numbers of a row that may be anything up to 2^63 are drawn from this many.
_ROW_NUMBERS = 50


@dataclass(frozen=True)
class Subject:
    """An operator under test.

    Attributes:
        operator: its specification.
        small: a call of it, of which sizes and attributes are taken that a test does not vary.
        oracle: its definition: float64 and int64 arrays and the attributes, by name, to the outputs, which are NaN
            where the operator promises nothing. None where nobody wrote one: then its PyTorch function in float64 is.
        spread: turns inputs into others that mean the same, in which each number that implementations round has a
            float of its own, to be disturbed alone; None where it has one anyway.
    """

    operator: Operator
    small: Case
    oracle: Callable[..., Any] | None = None
    spread: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None

    @classmethod
    def own(cls, name: str) -> Subject:
        """Return one of our operators, with the small case and the oracle of its folder."""
        return _own(name)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes for tests that are not about the values of attributes."""
        items = self.small.attributes.items()
        return {key: list(value) if isinstance(value, Sequence) else value for key, value in items}

    def sizes(self, wanted: Mapping[str, int], attributes: Attributes | None = None) -> dict[str, int]:
        """Return the sizes of all dimensions: those wanted, the small case's else, after what the rules make of them.

        Raises:
            ValueError: the rules leave a size open.
        """
        return Case(self.operator, {**self.small.sizes, **wanted}, attributes or self.attributes).all_sizes

    def keeps_rules(self, sizes: Mapping[str, int], attributes: Attributes | None = None) -> bool:
        """Whether sizes and attributes are what the operator's dimensions and rules say."""
        values = {**sizes, **(self.attributes if attributes is None else attributes)}
        known = self.operator.sizes
        if any(not known[name].least <= size <= known[name].most for name, size in sizes.items()):
            return False
        return all(expression.evaluate(rule.condition, values) for rule in self.operator.rules)

    # ------------------------------------------------------------ what ports and dimensions mean

    @functools.cached_property
    def lengths(self) -> Port | None:
        """The input that says how many tokens of a row are valid: its largest value is a dimension's size."""
        ports = (port for port in self.operator.inputs if port.rows and len(port.shape) == 1)
        return next((port for port in ports if port.rows and port.rows.most in self.operator.sizes), None)

    @functools.cached_property
    def time(self) -> str:
        """The dimension that counts tokens; "" where there is none."""
        if self.lengths is not None and self.lengths.rows is not None:
            return self.lengths.rows.most
        maths = maths_of(self.operator)
        time = getattr(getattr(maths, "step", None), "time", "T")
        return time if time in self.operator.sizes else ""

    @functools.cached_property
    def batch(self) -> str:
        """The dimension that counts rows: that of the lengths, else the first one of an input with tokens."""
        if self.lengths is not None:
            return self.lengths.shape[0]
        shapes = [port.shape for port in self.operator.inputs if self.time in port.shape and len(port.shape) > 1]
        return next((shape[0] for shape in shapes if shape[0] != self.time), "")

    @functools.cached_property
    def positions(self) -> tuple[Port, ...]:
        """The inputs that say how many tokens a row has had, by which its states are addressed."""
        if all(state.rollback == "snapshot" for state in self.operator.states):
            return ()
        numbers = (port for port in self.operator.inputs if port.type == INT64 and port.shape == (self.batch,))
        return tuple(port for port in numbers if port is not self.lengths)

    def is_token(self, port: Port) -> bool:
        """Whether an input or output has a part for each token of each row, of which those beyond it are padding."""
        return self.time in port.shape and self.batch in port.shape

    def tokens(self, port: Port, array: Array, row: int, start: int, stop: int | None = None) -> tuple[Any, ...]:
        """Return the index of some tokens of a row in an array of that port."""
        index: list[Any] = [slice(None)] * array.ndim
        index[port.shape.index(self.batch)] = row
        index[port.shape.index(self.time)] = slice(start, stop)
        return tuple(index)

    # ------------------------------------------------------------ numbers

    def row_range(self, port: Port, sizes: Mapping[str, int], attributes: Attributes) -> tuple[int, int]:
        """Return the least and the largest number to draw for an int64 input."""
        return row_range(port, {**sizes, **attributes}, sizes.get(self.time, 0))

    def floats(self, port: Port, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
        """Return normally distributed numbers, or numbers as the small case has them for that input."""
        shape = [sizes[dimension] for dimension in port.shape]
        if port.name in self.small.ranges:
            return rng.uniform(*self.small.ranges[port.name], shape)
        result = rng.standard_normal(shape)
        if port.name in self.small.starts:
            result[..., :1], result[..., 1:] = self.small.starts[port.name], 0
        return result

    def drawn(
        self, sizes: Mapping[str, int], attributes: Attributes, rows: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, Array]:
        """Return fresh inputs of the given sizes, floats in float64; a carried state is that of some earlier tokens.

        Args:
            sizes: of all dimensions.
            attributes: all of them.
            rows: the int64 inputs that are given; the others are drawn from their ranges.
            rng: the source of the numbers.
        """
        result: dict[str, Array] = {}
        for port in self.operator.inputs:
            if port.type == INT64:
                result[port.name] = self._numbers(port, sizes, attributes, rows, rng)
            elif port.type == BOOL:
                result[port.name] = rng.random([sizes[name] for name in port.shape]) < 0.5
            elif port.type == UINT8:
                result[port.name] = rng.integers(0, 256, [sizes[name] for name in port.shape], np.uint8)
            else:
                result[port.name] = self.floats(port, sizes, rng)
        return result | self._past(result, sizes, attributes, rng)

    def _numbers(
        self, port: Port, sizes: Mapping[str, int], attributes: Attributes, rows: Mapping[str, Any], rng: Any
    ) -> Array:
        if port.name in rows:
            return np.asarray(rows[port.name], np.int64)
        least, most = self.row_range(port, sizes, attributes)
        shape = [sizes[name] for name in port.shape]
        return np.asarray(rng.integers(least, most + 1, shape) if most >= least else np.zeros(shape), np.int64)

    def _past(
        self, inputs: Mapping[str, Array], sizes: Mapping[str, int], attributes: Attributes, rng: Any
    ) -> dict[str, Array]:
        """Return the states that some tokens leave behind, where a state sums up tokens; {} where there is none."""
        operator = self.operator
        states = [state for state in operator.states if state.rollback == "snapshot"]
        if not states or not self.time:
            return {}
        earlier = dict(inputs)
        for port in operator.inputs:
            if self.time in port.shape and port.type != INT64:
                earlier[port.name] = self.floats(port, {**sizes, self.time: _PAST}, rng)
            elif port is self.lengths:
                earlier[port.name] = np.full(sizes[self.batch], _PAST)
        earlier |= {state.past: np.zeros_like(inputs[state.past]) for state in states}
        found = dict(zip([port.name for port in operator.outputs], self.truth(earlier, attributes), strict=True))
        return {state.past: found[state.present] for state in states}

    def truth(self, inputs: Mapping[str, Array], attributes: Attributes) -> list[Array]:
        """Return the outputs in float64; NaN where the operator promises nothing."""
        if self.oracle is not None:
            result = self.oracle(**inputs, **attributes)
            return list(result) if isinstance(result, tuple) else [result]
        from .implementations import run_torch

        return [
            self.without_padding(port, array, inputs)
            for port, array in zip(self.operator.outputs, run_torch(self.operator, inputs, attributes), strict=True)
        ]

    def without_padding(self, port: Port, array: Array, inputs: Mapping[str, Array]) -> Array:
        """Return an output with NaN where there is padding."""
        if self.lengths is None or not self.is_token(port):
            return array
        result = array.astype(np.float64)
        for row, length in enumerate(inputs[self.lengths.name]):
            result[self.tokens(port, result, row, int(length))] = np.nan
        return result


def row_range(port: Port, values: Mapping[str, Any], tokens: int) -> tuple[int, int]:
    """Return the least and the largest number to draw for an int64 input.

    Args:
        port: the input.
        values: sizes and attributes.
        tokens: of the call; no fewer numbers are drawn from.
    """
    if port.rows is None:
        return 0, _ROW_NUMBERS
    least, most = (expression.evaluate(text, values) for text in (port.rows.least, port.rows.most))
    return least, min(most, least + max(_ROW_NUMBERS, tokens))


@functools.cache
def _own(name: str) -> Subject:
    operator = OPERATORS[name]
    cases, oracle = part_of(operator, "cases"), part_of(operator, "oracle")
    assert cases is not None and oracle is not None
    small = next(case for case in cases.SMALL if case.operator.name == name)
    return Subject(operator, small, getattr(oracle, operator.torch_name), getattr(oracle, "spread", None))


def default_case(operator: Operator) -> Case:
    """Return a small call of an operator whose folder has no `cases.py`.

    Raises:
        ValueError: its rules leave a size open.
    """
    sizes = {name: max(least, size) for (name, least), size in zip(_least(operator), _distinct(), strict=False)}
    attributes: dict[str, Any] = {}
    for attribute in operator.attributes:
        value: Any = attribute.least if attribute.least is not None else min(1, attribute.most or 1)
        attributes[attribute.name] = (value,) if attribute.type == "ints" else value
    return Case(operator, sizes, attributes)


def _least(operator: Operator) -> Iterator[tuple[str, int]]:
    for name, dimension in operator.sizes.items():
        yield name, dimension.least


def _distinct() -> Iterator[int]:
    yield from (2, 6, 4)
    yield from count(3)
