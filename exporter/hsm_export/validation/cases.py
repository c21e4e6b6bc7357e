"""The inputs that validation feeds: awkward shapes, adversarial values, or the user's own data."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError, UsageError
from ..files import require_file
from .inputs import InputSpec
from .model_file import ModelFile

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
_CHUNK = 128  # the causal TaylorShift body works in chunks of this many tokens
# Large enough to overflow a careless square or exponential, small enough for a projection of a few hundred terms.
_HUGE = {"fp16": 1e3, "fp32": 1e15, "bf16": 1e15}
_TINY = {"fp16": 1e-6, "fp32": 1e-36, "bf16": 1e-36}
# What an adversarial case does to floating-point and to integer inputs.
_ADVERSARIAL = {
    "zero": ("all zero", "first token repeated"),
    "huge": ("huge values", "last token repeated"),
    "tiny": ("tiny values", "random token repeated"),
}

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

    Lengths: 1; below, at and above the model's shifts; around TaylorShift's crossover N0 = d² + d + 1 and around the
    chunk length of its causal form; several batch sizes, a wide one unless the model gives many numbers for a row;
    unequal lengths where the model takes lengths.
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
    """
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
            range, or holds NaN or infinities.
    """
    arrays, name = read_npz(Path(inputs)) if isinstance(inputs, (str, Path)) else (dict(inputs), "given inputs")
    expected = {spec.name for spec in file.inputs}
    if set(arrays) != expected:
        raise BadInputError(
            f"{name} holds the arrays {', '.join(sorted(arrays)) or 'none'}; the model's inputs are "
            f"{', '.join(sorted(expected))}",
            "name the arrays as the inputs: np.savez(path, name=array, …)",
        )
    sizes: dict[str, int] = {}
    feed = {spec.name: _checked(spec, np.asarray(arrays[spec.name]), sizes, name) for spec in file.inputs}
    return Case(name, feed)


def _awkward_lengths(file: ModelFile) -> tuple[list[int], list[str]]:
    limit = _AFFORDABLE_TOKENS_LARGE if file.weight_bytes() > LARGE_WEIGHTS else _AFFORDABLE_TOKENS
    longest = _longest(file)
    if not _has_length(file):
        return [1], ["the model's inputs have a fixed length: only the batch size varies"]
    wanted = {1, _TYPICAL_LENGTH} | _lengths_around_shifts(file)
    if file.attribute("normalize", "CausalTaylorShift"):
        wanted |= {_CHUNK, _CHUNK + 1}
    for crossover in _crossovers(file):
        wanted |= {crossover - 1, crossover, crossover + 1}
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


def _lengths_around_shifts(file: ModelFile) -> set[int]:
    shifts = [abs(shift) for value in file.attribute("shifts", "TokenShift", "ShiftMix") for shift in value]
    if not shifts:
        return set()
    return {max(1, min(shifts) - 1), max(1, max(shifts)), max(shifts) + 1}


def _crossovers(file: ModelFile) -> set[int]:
    """Return the input lengths at which TaylorShift's two forms cost the same."""
    prepended = int(file.config.get("pooling") == "cls" and file.task == "sequence_classifier")
    return {width * width + width + 1 - prepended for width in _taylor_head_widths(file)}


def _taylor_head_widths(file: ModelFile) -> set[int]:
    widths = set()
    shapes = {value.name: value.type.tensor_type.shape.dim for value in file.model.graph.value_info}
    for node in file.model.graph.node:
        if node.domain == "hsm" and node.op_type in ("TaylorShift", "TaylorShiftMasked"):
            dims = shapes.get(node.input[0])
            if dims and dims[-1].HasField("dim_value"):
                widths.add(int(dims[-1].dim_value))
    return widths


def _longest(file: ModelFile) -> int:
    """Return the longest sequence that the model takes, in tokens; 0 when there is no limit."""
    return int(file.config.get("max_length") or 0)


def _case(file: ModelFile, rng: np.random.Generator, batch: int, length: int, kind: str) -> Case:
    feed = {}
    for spec in file.inputs:
        shape = _concrete(file, spec, batch, length)
        if spec.is_lengths:
            feed[spec.name] = _lengths(rng, batch, length)
        elif spec.is_integer:
            feed[spec.name] = _integers(rng, spec, shape, kind)
        else:
            feed[spec.name] = _floats(rng, shape, kind, file.precision)
    floats = any(not spec.is_integer for spec in file.inputs)
    return Case(_name(file, batch, length, kind), feed, ordinary=not (floats and kind in ("huge", "tiny")))


def _name(file: ModelFile, batch: int, length: int, kind: str) -> str:
    if kind == "random":
        return f"random {batch}×{length}" if _has_length(file) else f"random, batch {batch}"
    of_floats, of_integers = _ADVERSARIAL[kind]
    integers = [spec.is_integer for spec in file.inputs if not spec.is_lengths]
    return ", ".join(([of_floats] if not all(integers) else []) + ([of_integers] if any(integers) else []))


def _concrete(file: ModelFile, spec: InputSpec, batch: int, length: int) -> tuple[int, ...]:
    """Put numbers in the place of dynamic dimensions: the first input's first one is the batch."""
    batch_name = file.inputs[0].shape[0] if file.inputs[0].shape else "batch"
    return tuple(
        dim if isinstance(dim, int) else batch if dim in (batch_name, "batch") else length for dim in spec.shape
    )


def _lengths(rng: np.random.Generator, batch: int, length: int) -> NDArray[Any]:
    """Return unequal lengths: the first row is full, the last has one token."""
    values = rng.integers(1, length + 1, batch)
    values[-1] = 1
    values[0] = length
    return values


def _integers(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    low, high = spec.low or 0, spec.high if spec.high is not None else 1
    if kind == "random":
        return rng.integers(low, high + 1, shape).astype(spec.dtype)
    value = {"zero": low, "huge": high, "tiny": int(rng.integers(low, high + 1))}[kind]
    return np.full(shape, value, spec.dtype)


def _floats(rng: np.random.Generator, shape: tuple[int, ...], kind: str, precision: str) -> NDArray[Any]:
    scale = {"random": 1.0, "zero": 0.0, "huge": _HUGE[precision], "tiny": _TINY[precision]}[kind]
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def read_npz(path: Path) -> tuple[dict[str, Any], str]:
    require_file(path, "the inputs file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}, path.name
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} is not a readable .npz file: {error}", "write it with numpy.savez") from error


def _checked(spec: InputSpec, array: NDArray[Any], sizes: dict[str, int], where: str) -> NDArray[Any]:
    """Return the user's array in the input's type, or say what is wrong with it."""
    wanted = "integers" if spec.is_integer else "floating-point numbers"
    if array.dtype.kind not in ("iu" if spec.is_integer else "f"):
        raise BadInputError(f"{where}: {spec.name} must hold {wanted} ({spec.dtype}), got {array.dtype}")
    _check_shape(spec, array, sizes, where)
    if not np.isfinite(array).all():
        raise BadInputError(f"{where}: {spec.name} holds NaN or infinities", "validate with finite inputs")
    if not spec.is_integer:
        return array.astype(np.float32)
    low, high = spec.low, spec.high
    if spec.is_lengths:
        high = max((size for name, size in sizes.items() if name not in spec.shape), default=None)
    if array.size and ((low is not None and array.min() < low) or (high is not None and array.max() > high)):
        raise BadInputError(f"{where}: {spec.name} must lie in {low}…{high}, got {array.min()}…{array.max()}")
    return array.astype(spec.dtype)


def _check_shape(spec: InputSpec, array: NDArray[Any], sizes: dict[str, int], where: str) -> None:
    expected = f"({', '.join(map(str, spec.shape))})"
    problem = BadInputError(f"{where}: {spec.name} must have shape {expected}, got {array.shape}")
    if array.ndim != len(spec.shape) or array.size == 0:
        raise problem
    for dim, size in zip(spec.shape, array.shape, strict=True):
        if size != (sizes.setdefault(dim, size) if isinstance(dim, str) else dim):
            raise problem
