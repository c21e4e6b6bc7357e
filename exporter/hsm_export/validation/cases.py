"""The inputs that validation feeds: awkward shapes, adversarial values, or the user's own data."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hsm_operators import Operator, expression

from ..dtypes import BY_NAME
from ..errors import UsageError
from ..inlined_mixers import inlined_mixers
from ..onnx_model.model_file import ModelFile
from ..onnx_model.values import InputSpec
from .given_inputs import check_size, given_feed, random_others, read_npz, require_runnable

# What two cores compute in seconds; longer sequences only when asked for.
_AFFORDABLE_TOKENS = 320
_AFFORDABLE_TOKENS_LARGE = 48
LARGE_WEIGHTS = 200_000_000
_TYPICAL_LENGTH = 17
# A classifier gives few numbers for a row: only many rows show what errors are typical. These bound the wide batch.
_WIDE_NUMBERS = 512
_WIDE_TOKENS = 8192
_WIDE_LENGTH = 128
_WIDE_WEIGHTS = 1_000_000_000  # bytes of weights times rows
_LEAST_WIDE_BATCH = 16
# Large enough to overflow a careless square or exponential, small enough for a projection of a few hundred terms.
_HUGE = {"fp16": 1e3, "fp32": 1e15, "bf16": 1e15, "fp64": 1e120}
_TINY = {"fp16": 1e-6, "fp32": 1e-36, "bf16": 1e-36, "fp64": 1e-290}
# What an adversarial case does to floating-point and to integer inputs.
_ADVERSARIAL = {
    "zero": ("all zero", "first token repeated"),
    "huge": ("huge values", "last token repeated"),
    "tiny": ("tiny values", "random token repeated"),
}

# The length of a sequence in front of which a model puts tokens, such as that of a class.
_LONGER = re.compile(r"\w+ \+ (\d+)")

Shape = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One set of inputs.

    Attributes:
        name: what the inputs are, in words.
        feed: the arrays by input name.
        ordinary: the arbiter and native precision must both give finite numbers here.
    """

    name: str
    feed: dict[str, NDArray[Any]]
    ordinary: bool = True

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input."""
        return {name: tuple(array.shape) for name, array in self.feed.items()}


def default_cases(file: ModelFile) -> tuple[list[Case], list[str]]:
    """Return the cases that any file is validated with, and notes on what was left out.

    Lengths: 1, a usual one, and those at which the model's operators take another path, such as the shifts of a token
    shift; several batch sizes, a wide one unless the model gives many numbers for a row; unequal lengths where the
    model takes lengths.
    """
    lengths, notes = _awkward_lengths(file)
    shapes = [(1 + index % 3, length) for index, length in enumerate(lengths)]
    if len(shapes) == 1:
        shapes.append((3, lengths[0]))
    if file.task != "language_model" and file.weight_bytes() <= LARGE_WEIGHTS:
        shapes.append(_wide_shape(file, lengths))
    return shaped_cases(file, shapes), notes


def shaped_cases(file: ModelFile, shapes: Sequence[Shape]) -> list[Case]:
    """Return random cases with given (batch, length), then adversarial values with the shortest useful one.

    Raises:
        UsageError: a batch or length below 1, or a length beyond the model's longest.
        BadInputError: an input or output that is no tensor, or an input too large to be made up.
    """
    require_runnable(file)
    longest = _longest(file)
    for batch, length in shapes:
        if batch < 1 or length < 1:
            raise UsageError(f"batch and length must be at least 1, got {batch}×{length}")
        if longest and length > longest:
            raise UsageError(f"length {length} is beyond the model's longest sequence, {longest} tokens")
    rng = np.random.default_rng(0)
    cases = [_case(file, rng, batch, length, "random") for batch, length in shapes]
    length = min(16, max(length for _, length in shapes))
    return cases + [_case(file, rng, 2, length, kind) for kind in _ADVERSARIAL]


def user_case(file: ModelFile, inputs: str | Path | Mapping[str, Any]) -> Case:
    """Return the case of the user's own inputs: an .npz file or a mapping of names to arrays.

    Raises:
        BadInputError: the file cannot be read; names are missing or unknown; or an array has the wrong type, shape or
            range.
    """
    arrays, name = read_npz(Path(inputs)) if isinstance(inputs, (str, Path)) else (dict(inputs), "given inputs")
    return Case(name, given_feed(file, arrays, name))


def _awkward_lengths(file: ModelFile) -> tuple[list[int], list[str]]:
    limit = _AFFORDABLE_TOKENS_LARGE if file.weight_bytes() > LARGE_WEIGHTS else _AFFORDABLE_TOKENS
    longest = _longest(file)
    if not _has_length(file):
        return [1], ["the model's inputs have a fixed length: only the batch size varies"]
    wanted = {1, _TYPICAL_LENGTH} | telling_lengths(file)
    bound = min(limit, longest) if longest else limit
    left_out = sorted(length for length in wanted if length > bound)
    notes = []
    if left_out:
        why = f"the model's longest sequence is {longest}" if longest and longest <= limit else f"capped at {limit}"
        notes.append(f"lengths {', '.join(map(str, left_out))} were left out ({why} tokens)")
    return sorted(length for length in wanted if length <= bound), notes


def _wide_shape(file: ModelFile, lengths: Sequence[int]) -> Shape:
    """Return the batch that shows how large native errors get: as many rows as give enough numbers in little time."""
    length = max((length for length in lengths if length <= _WIDE_LENGTH), default=min(lengths))
    dims = [dim.dim_value for value in file.model.graph.output for dim in value.type.tensor_type.shape.dim]
    rows = min(
        _WIDE_NUMBERS // math.prod(dim for dim in dims if dim > 0),
        _WIDE_TOKENS // length,
        _WIDE_WEIGHTS // max(1, file.weight_bytes()),
    )
    return max(_LEAST_WIDE_BATCH, rows), length


def _has_length(file: ModelFile) -> bool:
    return any(isinstance(dim, str) for spec in file.inputs for dim in spec.shape[1:])


def telling_lengths(file: ModelFile) -> set[int]:
    """Return the lengths of the model's inputs at which its operators take another path, as their specifications say.

    Of the lengths that one expression gives in several nodes, only the smallest and the largest count.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in file.model.graph.value_info}
    shapes |= {value.name: value.type.tensor_type.shape.dim for value in file.model.graph.input}
    found: dict[tuple[str, str], set[int]] = {}
    calls = [
        (operator, {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}, tuple(node.input))
        for node, operator in file.operators
    ]
    calls += [
        (operator, dict(m.attributes), m.inputs) for m in inlined_mixers(file.model) if (operator := m.definition)
    ]
    for operator, attributes, inputs in calls:
        values, added = _known_values(operator, attributes, inputs, shapes)
        for text in operator.lengths:
            with contextlib.suppress(KeyError, ZeroDivisionError):  # a size that is dynamic, or malformed
                length = expression.evaluate(text, values) - added
                found.setdefault((operator.qualified_name, text), set()).add(length)
    return {length for lengths in found.values() for length in (min(lengths), max(lengths)) if length >= 1}


def _known_values(
    operator: Operator, attributes: Mapping[str, Any], inputs: Sequence[str], shapes: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Return a call's attributes and fixed sizes, and how many tokens its sequences have more than the model's."""
    values = dict(attributes)
    added = 0
    for port, name in zip(operator.inputs, inputs, strict=False):
        for size, dim in zip(port.shape, shapes.get(name, ()), strict=False):
            if dim.HasField("dim_value"):
                values[size] = int(dim.dim_value)
            elif longer := _LONGER.fullmatch(dim.dim_param):
                added = int(longer[1])
    return values, added


def _longest(file: ModelFile) -> int:
    """Return the longest sequence that the model takes, in tokens; 0 when there is no limit."""
    return int(file.config.get("max_length") or 0)


def _case(file: ModelFile, rng: np.random.Generator, batch: int, length: int, kind: str) -> Case:
    feed = {}
    rows = file.inputs[0].shape[0] if file.inputs and file.inputs[0].shape else "batch"
    for spec in file.inputs:
        shape = spec.sizes(batch, length, rows)
        if spec.is_lengths:
            feed[spec.name] = _lengths(rng, batch, length)
        else:
            feed[spec.name] = _values(file, rng, spec, shape, kind)
    floats = any(spec.is_float for spec in file.inputs)
    return Case(_name(file, batch, length, kind), feed, ordinary=not (floats and kind in ("huge", "tiny")))


def _name(file: ModelFile, batch: int, length: int, kind: str) -> str:
    if kind == "random":
        return f"random {batch}×{length}" if _has_length(file) else f"random, batch {batch}"
    of_floats, of_integers = _ADVERSARIAL[kind]
    others = [spec for spec in file.inputs if not spec.is_lengths]
    floats, integers = any(spec.is_float for spec in others), any(not spec.is_float for spec in others)
    return ", ".join(([of_floats] if floats else []) + ([of_integers] if integers else []))


def _lengths(rng: np.random.Generator, batch: int, length: int) -> NDArray[Any]:
    """Return unequal lengths: the first row is full, the last has one token."""
    values = rng.integers(1, length + 1, batch)
    values[-1] = 1
    values[0] = length
    return values


def _integers(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    low, high = spec.low or 0, spec.high if spec.high is not None else 1
    if kind == "random":
        return rng.integers(low, high + 1, shape).astype(BY_NAME[spec.dtype].numpy)
    value = {"zero": low, "huge": high, "tiny": int(rng.integers(low, high + 1))}[kind]
    return np.full(shape, value, BY_NAME[spec.dtype].numpy)


def _values(
    file: ModelFile, rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], kind: str
) -> NDArray[Any]:
    """Return random values of an input's type; of adversarial cases those that the kind asks for."""
    check_size(file, spec, shape)
    if spec.is_integer:
        return _integers(rng, spec, shape, kind)
    if not spec.is_float:
        return random_others(rng, spec, shape)
    scale = {"random": 1.0, "zero": 0.0, "huge": _HUGE[file.precision], "tiny": _TINY[file.precision]}[kind]
    exchanged = np.float64 if spec.dtype == "float64" else np.float32
    return np.asarray(rng.standard_normal(shape) * scale, exchanged)
