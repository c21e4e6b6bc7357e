"""Random inputs for ONNX files that say nothing about what they take: tried until the file runs with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..dtypes import BY_NAME
from ..errors import BadInputError, first_line
from ..onnx_model.input_bounds import looked_up
from ..onnx_model.shapes import TensorInfo, infer, skeleton
from ..runtimes.randomness import open_modes
from .cases import Case, Shape, default_cases, dimensions, distinct, shaped_cases, sizes_of, written
from .foreign_state import LENGTH, found_pairs, readings, sequence_input
from .given_inputs import check_size, random_others, require_runnable

if TYPE_CHECKING:
    from ..formats.tensor import InputSpec
    from ..onnx_model.model_file import ModelFile

Array = NDArray[Any]

# Sizes of the dynamic dimensions, batch and all others: the first that the file runs with, and odd ones after that.
_SIZES = ((2, 17), (1, 1), (3, 5), (1, 16), (1, 64), (1, 224))
_CASES = 3
_MOST_READINGS = 32
_BYTES = ("int8", "uint8")
# What a single number may be: how often a loop runs, or how long a result is.
_COUNTS = (1, 7)


@dataclass(frozen=True)
class Ranges:
    """Which integers every input may hold, both ends included; what it is worth to try, from daring to safe."""

    name: str
    bounds: Mapping[str, tuple[int, int]]


def chosen_cases(
    file: ModelFile, call: Callable[[Mapping[str, Array]], Any], shapes: Sequence[Shape] | None = None
) -> tuple[list[Case], list[str]]:
    """Return the cases that a file without a state is compared with, and notes on how they were chosen.

    Args:
        file: the file.
        call: runs the file, and raises where it cannot; only asked for files that say nothing about themselves.
        shapes: (batch, length) of the cases; None chooses.

    Raises:
        UsageError, BadInputError: as `plain_cases` and `cases.shaped_cases`.
    """
    if not file.metadata and not file.operators:
        found = (_called_cases(file, call) if not shapes else None) or plain_cases(file, call, shapes)
        return [*found[0], *(case for case in _switched(file, found[0]) if _runs(call, case))], found[1]
    cases, notes = (shaped_cases(file, shapes), []) if shapes else default_cases(file)
    return [*cases, *_switched(file, cases)], notes


def _switched(file: ModelFile, cases: Sequence[Case]) -> Iterator[Case]:
    """Yield the first case with another value of each Boolean that is the same in all cases: it may choose a branch."""
    modes = open_modes(file.model)
    for spec in file.inputs:
        if spec.dtype != "bool" or not _is_single(spec) or spec.name in modes:
            continue
        values = [bool(np.all(case.feed[spec.name])) for case in cases]
        if len(set(values)) == 1:
            first = cases[0]
            feed = {**first.feed, spec.name: np.logical_not(first.feed[spec.name])}
            yield replace(first, name=f"{first.name}, {spec.name} {str(not values[0]).lower()}", feed=feed)


def _is_single(spec: InputSpec) -> bool:
    """Return whether an input holds one number whatever the sizes are."""
    return all(size == 1 for size in spec.shape)


def _runs(call: Callable[[Mapping[str, Array]], Any], case: Case) -> bool:
    try:
        call(case.feed)
    except Exception:  # runtimes raise what they like
        return False
    return True


def _called_cases(
    file: ModelFile, call: Callable[[Mapping[str, Array]], Mapping[str, Array]]
) -> tuple[list[Case], list[str]] | None:
    """Return a prompt and the single tokens after it, for a language model with a state; None for other files."""
    pairs = found_pairs(file)
    sequence = sequence_input(file, pairs) if pairs else None
    if sequence is None or not isinstance(sequence.shape[1], str):
        return None
    for way in itertools.islice(readings(file, pairs, sequence), _MOST_READINGS):
        whole = way.random(LENGTH + 2)
        cases, state, read = [], way.start(len(whole)), 0
        try:
            for end in (LENGTH, LENGTH + 1, LENGTH + 2):
                feed = way.feed(whole[:, read:end], read, state)
                state = way.carried(call(feed))
                cases.append(Case(f"{end - read} tokens after {read}", feed))
                read = end
        except Exception:  # runtimes raise what they like
            continue
        return cases, [f"{file.path.name} is called as a decoder: {way.text}"]
    return None


def plain_cases(
    file: ModelFile, call: Callable[[Mapping[str, Array]], Any], shapes: Sequence[Shape] | None = None
) -> tuple[list[Case], list[str]]:
    """Return cases that a file runs with, and notes on how they were found.

    Args:
        file: the file.
        call: runs the file, and raises where it cannot.
        shapes: sizes of the dynamic dimensions: (batch, all others), or by their names. None looks for some that work.

    Raises:
        UsageError: a size below 1, or a dimension that the file does not have.
        BadInputError: an input of a type that cannot be made up, or no inputs that were tried make the file run.
    """
    require_runnable(file)
    for shape in shapes or ():
        sizes_of(file, shape)
    rng = np.random.default_rng(0)
    ranges, error = _working_ranges(file, call, tuple(shapes or _SIZES), rng)
    if ranges is None:
        raise BadInputError(
            f"{file.path} runs with none of the random inputs that were tried: {first_line(error)}",
            "give inputs of your own: --inputs data.npz",
        )
    cases, left_out = _running_cases(file, call, tuple(shapes or _shapes_of(file)), ranges, rng)
    notes = [f"{file.path.name} says nothing about its inputs: random ones, {ranges.name}"]
    if left_out and shapes:
        notes.append(f"it does not run with sizes {', '.join(left_out)}")
    return cases, notes


def index_bounds(file: ModelFile) -> dict[str, int]:
    """Return how large the numbers of an integer input may be for the tables that it visibly indexes."""
    shapes = {name: info.shape for name, info in _tensors(file.model).items()}
    bounds = {}
    for spec in file.inputs:
        if spec.is_integer:
            sizes = list(looked_up(file.model, spec.name, shapes))
            if sizes:
                bounds[spec.name] = max(0, min(sizes) - 1)
    return bounds


def _shapes_of(file: ModelFile) -> tuple[Shape, ...]:
    """Return the sizes to try; of several dimensions first those of which no two are equal."""
    rows, others = dimensions(file)
    if len(others) < 2:
        return _SIZES if rows or others else _SIZES[:1]
    return (distinct((*others, *rows)), distinct((*reversed(others), *rows)), *_SIZES)


def _working_ranges(
    file: ModelFile, call: Callable[[Mapping[str, Array]], Any], shapes: Sequence[Shape], rng: Any
) -> tuple[Ranges | None, Exception | None]:
    """Return the most daring ranges with which the file runs in any of the sizes, and the last error."""
    error: Exception | None = None
    for ranges in _candidates(file):
        for shape in shapes:
            try:
                call(_feed(file, ranges, shape, rng))
            except Exception as refused:  # runtimes raise what they like
                error = refused
                continue
            return ranges, None
    return None, error


def _candidates(file: ModelFile) -> Iterator[Ranges]:
    visible = index_bounds(file)
    integers = [spec for spec in file.inputs if spec.is_integer]
    known = {spec.name: (0, visible[spec.name]) for spec in integers if spec.name in visible}
    whole = {spec.name: _whole_range(spec) for spec in integers}
    small = {spec.name: (0, 1) for spec in integers}
    counts = {spec.name: _COUNTS if _is_single(spec) else (0, 1) for spec in integers}
    ones, zeros = ({spec.name: (value, value) for spec in integers} for value in (1, 0))
    described = "integers in the ranges of the tables that they index" if known else "floating-point numbers"
    if all(spec.name in visible or spec.dtype in _BYTES for spec in integers):
        yield Ranges(described, whole | known)
    if counts != small:
        yield Ranges(
            "integers 0 and 1, and single ones from {} to {}, where no table shows what they may be".format(*_COUNTS),
            counts | known,
        )
    yield Ranges("integers 0 and 1 where no table shows what they may be", small | known)
    yield Ranges("integers 1 where no table shows what they may be", ones | known)
    yield Ranges("integers 0 where no table shows what they may be", zeros | known)
    yield Ranges("all integers 0", zeros)


def _whole_range(spec: InputSpec) -> tuple[int, int]:
    """Return all numbers of a type of one byte, which is what quantised data uses; 0 and 1 of others."""
    if spec.dtype not in _BYTES:
        return 0, 1
    info = np.iinfo(spec.dtype)
    return int(info.min), int(info.max)


def _running_cases(
    file: ModelFile,
    call: Callable[[Mapping[str, Array]], Any],
    shapes: Sequence[Shape],
    ranges: Ranges,
    rng: Any,
) -> tuple[list[Case], list[str]]:
    cases: list[Case] = []
    left_out = []
    for shape in shapes:
        feed = _feed(file, ranges, shape, rng)
        sizes = "×".join(map(str, shape)) if isinstance(shape, tuple) else written(shape)
        try:
            call(feed)
        except Exception:  # runtimes raise what they like
            left_out.append(sizes)
            continue
        cases.append(Case(f"random {sizes}", feed))
        if len(cases) == _CASES:
            break
    return cases, left_out


def _feed(file: ModelFile, ranges: Ranges, wanted: Shape, rng: np.random.Generator) -> dict[str, Array]:
    sizes = sizes_of(file, wanted)
    modes = open_modes(file.model)
    feed = {}
    for spec in file.inputs:
        shape = spec.sizes(sizes)
        check_size(file, spec, shape)
        if spec.is_integer:
            low, high = ranges.bounds[spec.name]
            values = rng.integers(low, high + 1, shape)
            if (low, high) == (0, 1) and len(shape) > 1:
                values[..., :1] = 1  # it may be a mask, which lets something through in every row
            feed[spec.name] = values.astype(BY_NAME[spec.dtype].numpy)
        elif spec.is_float:
            kind = np.float64 if spec.dtype == "float64" else np.float32
            feed[spec.name] = np.asarray(rng.standard_normal(shape), kind)
        else:
            feed[spec.name] = random_others(rng, spec, shape)
            if spec.name in modes:  # of Dropout: nobody can be held to what is drawn at random
                feed[spec.name] = np.zeros(shape, bool)
            if spec.dtype == "bool" and len(shape) > 1:
                feed[spec.name][..., :1] = feed[spec.name][..., -1:] ^ True  # whichever value lets through
    return feed


def _tensors(model: onnx.ModelProto) -> dict[str, TensorInfo]:
    """Return the tensors whose shapes can be found out; empty for graphs that inference does not take."""
    try:
        found = infer(skeleton(model), {})
    except Exception:  # what a stranger's file breaks is its own
        found = {}
    return found
