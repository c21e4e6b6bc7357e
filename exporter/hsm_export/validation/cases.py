"""The inputs that validation feeds: awkward shapes, adversarial values, or the user's own data."""

from __future__ import annotations

import contextlib
import itertools
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
from ..formats.tensor import InputSpec
from ..onnx_model.inlined_mixers import inlined_mixers
from ..onnx_model.model_file import ModelFile
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

# Sizes of a case: (batch, length), or sizes of dimensions by their names.
Shape = tuple[int, int] | Mapping[str, int]
Sizes = dict[str, int]
# Sizes of several dimensions besides the batch.
_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29)


@dataclass(frozen=True)
class Case:
    """One set of inputs.

    Attributes:
        name: what the inputs are, in words.
        feed: the arrays by input name.
        ordinary: the arbiter and native precision must both give finite numbers here.
        labels: (B,) the right classes; None where they are not known.
        text: the tokens are text, or somebody's own, so that their perplexity means something.
    """

    name: str
    feed: dict[str, NDArray[Any]]
    ordinary: bool = True
    labels: NDArray[Any] | None = None
    text: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every input."""
        return {name: tuple(array.shape) for name, array in self.feed.items()}


def default_cases(file: ModelFile) -> tuple[list[Case], list[str]]:
    """Return the cases that any file is validated with, and notes on what was left out.

    Lengths: 1, a usual one, and those at which the model's operators take another path, such as the shifts of a token
    shift; several batch sizes, a wide one unless the model gives many numbers for a row; unequal lengths where the
    model takes lengths; the exporter's example. Of several dimensions besides the batch each takes these lengths in
    turn, and each changes by itself, while the others have sizes of which no two are equal.
    """
    lengths, notes = _awkward_lengths(file)
    shapes: list[Shape] = [(1 + index % 3, length) for index, length in enumerate(lengths)]
    if len(shapes) == 1:
        shapes.append((3, lengths[0]))
    if file.task != "language_model" and file.weight_bytes() <= LARGE_WEIGHTS:
        shapes.append(_wide_shape(file, lengths))
    rows, others = dimensions(file)
    base = distinct(others)
    if len(others) > 1:
        turns = [(others[index % len(others)], *_pair(shape)) for index, shape in enumerate(shapes)]
        shapes = [dict.fromkeys(rows, batch) | base | {name: length} for name, batch, length in turns]
        shapes += [dict.fromkeys(rows, 2) | base | {name: 3} for name in others]
    if others and all(name in file.example for name in (*rows, *others)):
        shapes += [{name: file.example[name] for name in (*rows, *others)}]
    if file.relations:
        shapes, related = _related(file, shapes)
        notes += related
    return shaped_cases(file, shapes), notes


def _related(file: ModelFile, shapes: Sequence[Shape]) -> tuple[list[Shape], list[str]]:
    """Return sizes that the file was traced for, made of these where they are none, and a note on that."""
    wanted = [sizes_of(file, shape) for shape in shapes]
    found = [raised(file.relations, sizes) for sizes in wanted]
    fitting: list[Shape] = [sizes for sizes in found if holds_for(file, sizes)]
    if found == wanted or not fitting:
        return list(shapes), []
    return fitting, [f"sizes are chosen so that {' and '.join(file.relations)}: the file holds for no others"]


def raised(relations: Sequence[str], sizes: Sizes) -> Sizes:
    """Return sizes in which those that relations of two dimensions want larger are."""
    sizes = dict(sizes)
    orders = [match for text in relations if (match := re.fullmatch(r"(\w+) ([<>])(=?) (\w+)", text))]
    for _, match in itertools.product(relations, orders):  # one may raise what another one reads
        small, large = (match[1], match[4]) if match[2] == "<" else (match[4], match[1])
        if small in sizes and large in sizes:
            sizes[large] = max(sizes[large], sizes[small] + (not match[3]))
    return sizes


def holds_for(file: ModelFile, sizes: Sizes) -> bool:
    """Say whether sizes of the dynamic dimensions are among those that the file was traced for."""
    known = [relation for relation in file.relations if expression.names(relation) <= sizes.keys()]
    try:
        return all(expression.evaluate(relation, sizes) for relation in known)
    except ZeroDivisionError:  # a stranger's file may say anything
        return True


def dimensions(file: ModelFile) -> tuple[list[str], list[str]]:
    """Return the names of a file's dynamic dimensions: those that count rows, and all others."""
    first = file.inputs[0].shape[0] if file.inputs and file.inputs[0].shape else "batch"
    rows, others = dict[str, None](), dict[str, None]()
    for spec in file.inputs:
        for size in spec.shape:
            if isinstance(size, str):
                (rows if size in (first, "batch", f"{spec.name}.0") else others)[size] = None
    return list(rows), list(others)


def distinct(names: Sequence[str]) -> Sizes:
    """Return sizes of which no two are equal."""
    return {name: _PRIMES[index % len(_PRIMES)] + 30 * (index // len(_PRIMES)) for index, name in enumerate(names)}


def pairs(shapes: Sequence[Shape] | None, what: str) -> list[tuple[int, int]]:
    """Return shapes as (batch, length) where these are the only dimensions that may be given.

    Raises:
        UsageError: a shape names other dimensions.
    """
    found = []
    for shape in shapes or ():
        if isinstance(shape, tuple):
            found.append(shape)
        elif set(shape) == {"batch", "length"}:
            found.append((shape["batch"], shape["length"]))
        else:
            raise UsageError(f"{what} takes sizes of batch and length, got {', '.join(shape)}", "as in 2x300")
    return found


def covered(cases: Sequence[Case], file: ModelFile) -> str:
    """Return the sizes that cases cover, by the dimensions' names; "" where there are none."""
    found: dict[str, set[int]] = {}
    for case in cases:
        for spec in file.inputs:
            for name, size in zip(spec.shape, case.shapes.get(spec.name, ()), strict=False):
                if isinstance(name, str):
                    found.setdefault(name, set()).add(size)
    texts = [f"{name} {', '.join(map(str, sorted(sizes)))}" for name, sizes in found.items()]
    return f"sizes covered: {'; '.join(texts)}" if texts else ""


def _pair(shape: Shape) -> tuple[int, int]:
    assert isinstance(shape, tuple)
    return shape


def sizes_of(file: ModelFile, shape: Shape) -> Sizes:
    """Return the size of every dynamic dimension.

    Raises:
        UsageError: a size below 1, a name that the file's inputs do not have, or a length beyond the model's longest.
    """
    rows, others = dimensions(file)
    if isinstance(shape, tuple):
        sizes = dict.fromkeys(rows, shape[0]) | dict.fromkeys(others, shape[1])
        if min(shape) < 1:
            raise UsageError(f"batch and length must be at least 1, got {shape[0]}×{shape[1]}")
    else:
        unknown = sorted(set(shape) - {*rows, *others})
        if unknown or not shape:
            raise UsageError(
                f"{file.path} has no dimension {', '.join(unknown)}; its dynamic dimensions are "
                f"{', '.join((*rows, *others)) or 'none'}",
                "name them as in batch=2,height=5",
            )
        sizes = dict.fromkeys(rows, 2) | distinct(others) | dict(shape)
        if min(sizes.values()) < 1:
            raise UsageError(f"sizes must be at least 1, got {written(sizes)}")
    longest = _longest(file)
    length = max((sizes[name] for name in others), default=0)
    if longest and length > longest:
        raise UsageError(f"length {length} is beyond the model's longest sequence, {longest} tokens")
    return sizes


def shaped_cases(file: ModelFile, shapes: Sequence[Shape]) -> list[Case]:
    """Return random cases of given sizes, then adversarial values with the shortest useful ones.

    Raises:
        UsageError: sizes that `sizes_of` refuses.
        BadInputError: an input or output that is no tensor, or an input too large to be made up.
    """
    require_runnable(file)
    wanted = [sizes_of(file, shape) for shape in shapes]
    rows, others = dimensions(file)
    rng = np.random.default_rng(0)
    cases = [_case(file, rng, sizes, "random") for sizes in wanted]
    usual = {name: min(16, max(sizes[name] for sizes in wanted)) for name in others} | dict.fromkeys(rows, 2)
    usual = raised(file.relations, usual)
    return cases + [_case(file, rng, usual, kind) for kind in _ADVERSARIAL]


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


def _wide_shape(file: ModelFile, lengths: Sequence[int]) -> tuple[int, int]:
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


def _case(file: ModelFile, rng: np.random.Generator, sizes: Sizes, kind: str) -> Case:
    feed = {}
    for spec in file.inputs:
        shape = spec.sizes(sizes)
        if spec.is_lengths:
            feed[spec.name] = _lengths(rng, spec, shape[0], sizes)
        else:
            feed[spec.name] = _values(file, rng, spec.bounded(sizes), shape, kind)
    floats = any(spec.is_float for spec in file.inputs)
    return Case(_name(file, sizes, kind), feed, ordinary=not (floats and kind in ("huge", "tiny")))


def _name(file: ModelFile, sizes: Sizes, kind: str) -> str:
    if kind == "random":
        rows, others = dimensions(file)
        if len(rows) > 1 or len(others) > 1 or (others and not rows):
            return f"random {written(sizes)}"
        batch = sizes[rows[0]] if rows else 1
        return f"random {batch}×{sizes[others[0]]}" if others else f"random, batch {batch}"
    of_floats, of_integers = _ADVERSARIAL[kind]
    others_ = [spec for spec in file.inputs if not spec.is_lengths]
    floats, integers = any(spec.is_float for spec in others_), any(not spec.is_float for spec in others_)
    return ", ".join(([of_floats] if floats else []) + ([of_integers] if integers else []))


def written(sizes: Mapping[str, int]) -> str:
    """Return sizes as text."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _lengths(rng: np.random.Generator, spec: InputSpec, batch: int, sizes: Sizes) -> NDArray[Any]:
    """Return unequal lengths: the first row is full, the last has one token."""
    others = max((size for name, size in sizes.items() if name not in spec.shape), default=1)
    length = spec.counts if isinstance(spec.counts, int) else sizes.get(spec.counts or "", others)
    values = rng.integers(1, length + 1, batch)
    values[-1] = 1
    values[0] = length
    return values.astype(BY_NAME[spec.dtype].numpy)


def _integers(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    low, high = spec.drawn
    if spec.is_mask and spec.usual is not None and kind != "random":
        return np.full(shape, spec.usual or 0, BY_NAME[spec.dtype].numpy)
    if kind == "random":
        values = rng.integers(low, high + 1, shape)
        if spec.is_mask and spec.usual is not None and shape:
            values[..., :1] = spec.usual  # a mask lets something through in every row
        return values.astype(BY_NAME[spec.dtype].numpy)
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
        others = random_others(rng, spec, shape)
        if spec.is_mask and shape:  # it lets something through in every row
            others[..., :1] = others[..., -1:] ^ True if spec.usual is None else bool(spec.usual)
        return others
    scale = {"random": 1.0, "zero": 0.0, "huge": _HUGE[file.precision], "tiny": _TINY[file.precision]}[kind]
    exchanged = np.float64 if spec.dtype == "float64" else np.float32
    return np.asarray(rng.standard_normal(shape) * scale, exchanged)
