"""The state of decoding files that others wrote: which input takes what an output gave, and what the other inputs mean.

Pairs are found by their names and shapes together: the same element type, fixed sizes that are the same, numbers that
are the same (those of layers), and one and the same difference between the names of all pairs, whatever it is
(`past_key_values.0.key` and `present.0.key`, `conv_state_in.3` and `conv_state_out.3`). What the other inputs hold is
found by trying: with the right meaning, two calls give what one call gives.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.error import distance, is_exact, largest
from ..dtypes import BY_NAME
from ..errors import UsageError
from ..formats.tensor import ANY_SHAPE, InputSpec, Tensor
from ..onnx_model.input_bounds import looked_up
from ..onnx_model.model_file import ModelFile

Array = NDArray[Any]
Call = Callable[[Mapping[str, Array]], Mapping[str, Array]]
_PARTS = re.compile(r"[a-z]+|\d+")
# In place of sizes that nothing tells, such as those of an encoder's results.
_OTHER_SIZE = 5
_BATCH = 2
# Tokens of a sequence.
LENGTH = 7
# What two evaluations in float64 may differ, relative to the largest number.
_SAME = 1e-8


@dataclass(frozen=True)
class StatePair:
    """A state: the input that takes it, and the output that gives it to the next call."""

    past: str
    present: str

    @property
    def text(self) -> str:
        """The pair in words."""
        return f"{self.past} → {self.present}"


def named_pairs(file: ModelFile, named: Sequence[tuple[str, str]]) -> tuple[StatePair, ...]:
    """Return the pairs that the user names.

    Raises:
        UsageError: there is no such input or output, or their types differ.
    """
    inputs, outputs = {item.name: item for item in file.inputs}, {item.name: item for item in file.outputs}
    for past, present in named:
        for name, known, kind in ((past, inputs, "input"), (present, outputs, "output")):
            if name not in known:
                raise UsageError(f"{file.path} has no {kind} {name!r}", f"its {kind}s are {', '.join(known)}")
        if inputs[past].dtype != outputs[present].dtype:
            raise UsageError(f"the state {past}={present} is {inputs[past].dtype} in and {outputs[present].dtype} out")
    return tuple(StatePair(*pair) for pair in named)


def found_pairs(file: ModelFile) -> tuple[StatePair, ...]:
    """Return the state of a language model as far as it shows: () for files that carry none, or not visibly."""
    by_change: dict[Any, list[tuple[InputSpec, Tensor]]] = defaultdict(list)
    for spec, output in itertools.product(file.inputs, file.outputs):
        change = _change(spec.name, output.name)
        if change is not None and _fits(spec, output):
            by_change[change].append((spec, output))
    for found in sorted(by_change.values(), key=len, reverse=True):
        pasts, presents = ({item.name for item in side} for side in zip(*found, strict=True))
        if not len(found) == len(pasts) == len(presents):
            continue  # not one to one
        pairs = tuple(StatePair(spec.name, output.name) for spec, output in found)
        tokens = token_input(file, pairs)
        if tokens is not None and not any(tokens.shape[1] in spec.shape[1:] for spec, _ in found):
            return pairs
    return ()


def _change(past: str, present: str) -> Any:
    """Return what differs between two names; None where they have nothing, or other numbers, in common."""
    before, after = _PARTS.findall(past.lower()), _PARTS.findall(present.lower())
    shared = Counter(before) & Counter(after)
    numbers = [[part for part in parts if part.isdigit()] for parts in (before, after)]
    if not shared or numbers[0] != numbers[1] or before == after:
        return None
    left = [tuple(sorted((Counter(parts) - shared).elements())) for parts in (before, after)]
    return tuple(left)


def _fits(spec: InputSpec, output: Tensor) -> bool:
    if spec.dtype != output.dtype or not spec.is_tensor or spec.dtype in ("string", "bool"):
        return False
    if ANY_SHAPE in (spec.shape, output.shape):
        return True
    fixed = (
        (a, b) for a, b in zip(spec.shape, output.shape, strict=False) if isinstance(a, int) and isinstance(b, int)
    )
    return len(spec.shape) == len(output.shape) > 0 and all(a == b for a, b in fixed)


def token_input(file: ModelFile, pairs: Sequence[StatePair]) -> InputSpec | None:
    """Return the input that holds a language model's tokens (B,T): integers that look up a table.

    Of several it is the one whose table has a row for each logit, else the largest table.
    """
    logits = {output.shape[-1] for output in file.outputs if len(output.shape) == 3}
    pasts = {pair.past for pair in pairs}
    rows: dict[str, int] = {}
    for spec in file.inputs:
        if spec.name not in pasts and spec.is_integer and len(spec.shape) == 2:
            rows[spec.name] = max(looked_up(file.model, spec.name, {}, certain=True), default=0)
    best = max(rows, key=lambda name: (rows[name] in logits, rows[name]), default=None)
    return next((spec for spec in file.inputs if spec.name == best and rows[spec.name] > 1), None)


def sequence_input(file: ModelFile, pairs: Sequence[StatePair]) -> InputSpec | None:
    """Return the input along which a file with a named state reads: tokens, else what has a free size besides rows."""
    pasts = {pair.past for pair in pairs}
    others = [spec for spec in file.inputs if spec.name not in pasts and spec.shape != ANY_SHAPE]
    free = [spec for spec in others if len(spec.shape) > 1 and isinstance(spec.shape[1], str)]
    return token_input(file, pairs) or next((spec for spec in free if spec.is_float), next(iter(free), None))


@dataclass(frozen=True)
class Reading:
    """How a file with a state is called.

    Attributes:
        file: the file.
        pairs: its state.
        sequence: the input along which it reads, (B,T,…).
        meanings: by the name of each other input, what it holds in a call.
        empty: what stands for the free sizes of a state before the first token.
        joined: outputs that have a result for each token, (B,T,…); others are those of the last call.
        ways: names of the ways to cut a sequence that the file takes.
    """

    file: ModelFile
    pairs: tuple[StatePair, ...]
    sequence: InputSpec
    meanings: Mapping[str, str]
    empty: int = 0
    joined: frozenset[str] = frozenset()
    ways: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The meanings in words."""
        listed = [f"{name}: {meaning}" for name, meaning in self.meanings.items()]
        return f"read along {self.sequence.name}" + (f"; {', '.join(listed)}" if listed else "")

    def start(self, rows: int) -> dict[str, Array]:
        """Return the state before the first token: zeros."""
        specs = {spec.name: spec for spec in self.file.inputs}
        return {
            pair.past: np.zeros(self._sizes(specs[pair.past], rows), _kind(specs[pair.past])) for pair in self.pairs
        }

    def _sizes(self, spec: InputSpec, rows: int) -> tuple[int, ...]:
        batch = self.sequence.shape[0]
        return tuple(
            size if isinstance(size, int) else rows if size == batch or size == f"{spec.name}.0" else self.empty
            for size in spec.shape
        )

    def feed(self, piece: Array, read: int, state: Mapping[str, Array]) -> dict[str, Array]:
        """Return the inputs of a call.

        Args:
            piece: what is read, (B,T,…).
            read: how much was read before.
            state: what the call before gave.
        """
        feed = {self.sequence.name: piece, **state}
        for spec in self.file.inputs:
            if spec.name in self.meanings:
                feed[spec.name] = _content(
                    spec, self.meanings[spec.name], len(piece), read, piece.shape[1], self.sequence
                )
        return feed

    def carried(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the state that outputs give to the next call."""
        return {pair.past: np.asarray(outputs[pair.present]) for pair in self.pairs}

    def copied(self, state: Mapping[str, Array], rows: Sequence[int]) -> dict[str, Array] | None:
        """Return a state whose rows are copies of others; None where the file does not say which axis has the rows."""
        specs = {spec.name: spec for spec in self.file.inputs}
        found = {}
        for name, array in state.items():
            axes = [axis for axis, size in enumerate(specs[name].shape) if size == self.sequence.shape[0]]
            if len(axes) != 1 and array.ndim:
                return None
            found[name] = array.take(rows, axes[0]) if array.ndim else array
        return found

    def random(self, length: int) -> Array:
        """Return something to read of a length."""
        rng = np.random.default_rng(7)
        rows = self.sequence.shape[0] if isinstance(self.sequence.shape[0], int) else _BATCH
        rest = tuple(size if isinstance(size, int) else _OTHER_SIZE for size in self.sequence.shape[2:])
        if self.sequence.is_float:
            return rng.standard_normal((rows, length, *rest)).astype(np.float32)
        bound = min(looked_up(self.file.model, self.sequence.name, {}, certain=True), default=2)
        return rng.integers(0, bound, (rows, length, *rest)).astype(BY_NAME[self.sequence.dtype].numpy)


def tail(whole: Array, part: Array) -> Array:
    """Return the last elements of an array along every axis of which another one has fewer."""
    if whole.ndim != part.ndim:
        return whole
    return whole[tuple(slice(max(0, a - b), None) for a, b in zip(whole.shape, part.shape, strict=True))]


def departs(value: Array, right: Array) -> float:
    """Return how far apart two arrays are where that is more than float64 explains, else 0."""
    gap = distance(value, right)
    return gap if gap > (0.0 if is_exact(right) else _SAME * max(largest(right), 1e-30)) else 0.0


def readings(file: ModelFile, pairs: tuple[StatePair, ...], sequence: InputSpec) -> Iterator[Reading]:
    """Yield ways to call a file, the likeliest first."""
    taken = {pair.past for pair in pairs} | {sequence.name}
    others = [spec for spec in file.inputs if spec.name not in taken]
    choices = [_meanings(file, spec, sequence) for spec in others]
    for empty in (0, 1):
        for chosen in itertools.product(*choices):
            yield Reading(file, pairs, sequence, dict(zip((spec.name for spec in others), chosen, strict=True)), empty)


def _meanings(file: ModelFile, spec: InputSpec, sequence: InputSpec) -> list[str]:
    """Return what an input may hold, the likeliest first."""
    if spec.is_float:
        return ["nothing masked", "random"] if len(spec.shape) == 4 else ["random"]
    if spec.dtype == "bool" and len(spec.shape) < 2:
        return ["whether it continues", "true", "false"]
    if len(spec.shape) == 0 or (len(spec.shape) == 1 and spec.shape[0] != sequence.shape[1]):
        numbers = ["number read before", "number in all", "last position", "number of new ones", "ones"]
        return numbers if spec.is_integer else ["ones"]
    of_all = spec.shape[-1] != sequence.shape[1]
    if of_all:
        return ["ones for all", "ones for new ones"]
    positions = list(looked_up(file.model, spec.name, {}, certain=True))
    return ["positions", "ones"] if positions or spec.dtype != "bool" else ["ones", "positions"]


def _content(spec: InputSpec, meaning: str, rows: int, read: int, new: int, sequence: InputSpec) -> Array:
    """Return what an input holds in a call of `new` tokens after `read` ones."""
    numbers = {
        "number read before": read, "number in all": read + new, "last position": read + new - 1,
        "number of new ones": new, "whether it continues": read > 0, "true": True, "false": False,
    }  # fmt: skip
    length = read + new if meaning in ("ones for all", "nothing masked") else new
    shape = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            shape.append(size)
        elif (axis == 0 and len(spec.shape) > 1) or size == sequence.shape[0]:
            shape.append(rows)
        elif meaning in numbers:
            shape.append(1)
        elif meaning == "random":
            shape.append(_OTHER_SIZE)
        else:
            shape.append(length if axis == len(spec.shape) - 1 else new)
    if meaning in numbers:
        return np.full(shape, numbers[meaning], _kind(spec))
    if meaning == "positions":
        return np.broadcast_to(read + np.arange(shape[-1]), shape).astype(_kind(spec))
    if meaning == "random":
        return np.random.default_rng(3).standard_normal(shape).astype(_kind(spec))
    if meaning == "nothing masked":
        hidden = np.arange(shape[-1]) > read + np.arange(shape[-2])[:, None]
        return np.broadcast_to(np.where(hidden, np.finfo(np.float32).min, 0.0), shape).astype(_kind(spec))
    return np.ones(shape, _kind(spec))


def _kind(spec: InputSpec) -> Any:
    """Return the type that runtimes are fed with."""
    return (np.float64 if spec.dtype == "float64" else np.float32) if spec.is_float else BY_NAME[spec.dtype].numpy
