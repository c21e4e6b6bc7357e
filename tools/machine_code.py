"""Loops of compiled CUDA kernels: what one pass costs, read from the disassembler's listing.

A pass is the path of a full tile: of all paths through the loop the one with the most tensor-core instructions, then the
most asynchronous copies, then the fewest instructions. So neither the copies of misaligned rows nor edges count. A loop
within the loop counts as often as it is passed, `trips` times, where the caller knows that, else once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+) )?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_TENSOR = ("HMMA", "IMMA", "QMMA", "OMMA", "HGMMA", "UTCHMMA")
# Cycles of a multiprocessor's shared memory for one instruction of a warp, 128 bytes in each, without bank conflicts.
_BYTES_OF_LANE = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_MATRIX_BYTES = 128


@dataclass(frozen=True)
class Instruction:
    """One instruction: where it is, its predicate or "", its name with modifiers, and its operands."""

    address: int
    predicate: str
    name: str
    operands: str

    @property
    def kind(self) -> str:
        """The name without modifiers."""
        return self.name.split(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch leads; None for other instructions."""
        if self.kind != "BRA":
            return None
        found = re.search(r"0x([0-9a-f]+)", self.operands)
        return int(found.group(1), 16) if found else None

    @property
    def wavefronts(self) -> int:
        """Cycles of shared memory that it takes at least."""
        if self.kind == "LDSM":
            return int(self.name.split(".")[-1]) * _MATRIX_BYTES // 128
        if self.kind not in ("LDS", "STS", "LDGSTS", "ATOMS"):
            return 0
        width = next((_BYTES_OF_LANE[part] for part in self.name.split(".") if part in _BYTES_OF_LANE), 4)
        return max(1, 32 * width // 128)


@dataclass(frozen=True)
class Pass:
    """What one pass of a loop costs a warp.

    Attributes:
        instructions: how many are issued.
        tensor: those of the tensor cores.
        wavefronts: cycles of shared memory, without bank conflicts.
        copies: asynchronous ones.
    """

    instructions: int
    tensor: int
    wavefronts: int
    copies: int


def parse(listing: Iterable[str]) -> list[Instruction]:
    """Return one function's instructions from the lines of cuobjdump -sass."""
    found = (_LINE.match(line) for line in listing)
    return [Instruction(int(m[1], 16), m[2] or "", m[3], m[4].strip()) for m in found if m]


def loops(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """Return each loop as its first and last index, outer ones first; a branch to itself, the end's trap, is none."""
    index = {item.address: i for i, item in enumerate(code)}
    ends: dict[int, int] = {}
    for i, item in enumerate(code):
        start = index.get(item.target) if item.target is not None else None
        if start is not None and start < i:
            ends[start] = max(ends.get(start, 0), i)
    return sorted(ends.items(), key=lambda loop: (loop[0], -loop[1]))


def hot_loops(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """Return the innermost loops with tensor-core instructions, in their order in the code."""
    with_tensor = [
        (first, last) for first, last in loops(code) if any(i.kind in _TENSOR for i in code[first : last + 1])
    ]
    return [
        own
        for own in with_tensor
        if not any(own != other and own[0] <= other[0] and other[1] <= own[1] for other in with_tensor)
    ]


def cost(code: Sequence[Instruction], loop: tuple[int, int]) -> Pass:
    """Return what a pass of a loop costs."""
    path = [code[i] for i in _path(code, *loop)]
    kinds = Counter(item.kind for item in path)
    tensor = sum(kinds[kind] for kind in _TENSOR)
    return Pass(len(path), tensor, sum(item.wavefronts for item in path), kinds["LDGSTS"])


def _successors(code: Sequence[Instruction], index: dict[int, int], i: int) -> Iterator[int]:
    """Yield where control goes after an instruction, but backwards: a loop within is passed once."""
    item = code[i]
    target = index.get(item.target) if item.target is not None else None
    if target is not None and target > i:
        yield target
    # "PT" is true; an unconditional branch backwards ends a loop, after which the code goes on.
    falls = item.kind not in ("EXIT", "RET") or item.predicate
    if falls and not (target is not None and target > i and _is_certain(item)):
        yield i + 1


def _is_certain(item: Instruction) -> bool:
    return not item.predicate and not re.match(r"!?U?P\d", item.operands)


def _path(code: Sequence[Instruction], first: int, last: int) -> list[int]:
    """Return the indices of the instructions on the path of a full tile."""
    index = {item.address: i for i, item in enumerate(code)}
    worst = (-1, -1, 0)
    best: dict[int, tuple[int, int, int]] = {}
    following: dict[int, int] = {}
    for i in range(last, first - 1, -1):
        own = (int(code[i].kind in _TENSOR), int(code[i].kind == "LDGSTS"), -1)
        options = [n for n in _successors(code, index, i) if n <= last]
        chosen = max(options, key=lambda n: best.get(n, worst), default=None)
        rest = (0, 0, 0) if i == last else best.get(chosen, worst) if chosen is not None else worst
        best[i] = worst if rest == worst else tuple(a + b for a, b in zip(own, rest, strict=True))  # type: ignore[assignment]
        if chosen is not None:
            following[i] = chosen
    path = [first]
    while path[-1] != last:
        path.append(following[path[-1]])
    return path
