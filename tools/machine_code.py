"""Loops of compiled CUDA kernels: what one pass costs, read from the disassembler's listing.

A pass is the path of a full tile: of all paths through the loop the one with the most tensor-core instructions, then
the most asynchronous copies, then the fewest instructions. So neither the copies of misaligned rows nor edges count,
and the cost is a lower bound. Loops within are passed once, those with tensor-core instructions as often as the caller
says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+) )?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_TENSOR = ("HMMA", "IMMA", "QMMA", "OMMA", "HGMMA", "UTCHMMA")
_FLOATS = ("FFMA", "FMUL", "FADD")
# Two flops for each of m·n·k, by what the names of instructions say of their shape.
_FLOPS = {"16816": 4096, "1688": 2048, "1684": 1024}
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
    def flops(self) -> int:
        """Those of a product on tensor cores; 0 for other instructions.

        Raises:
            ValueError: it has a shape that this program does not know.
        """
        if self.kind not in _TENSOR:
            return 0
        shape = next((part for part in self.name.split(".") if part in _FLOPS), None)
        if shape is None:
            raise ValueError(f"{self.name} is a product of an unknown shape; add it to tools/machine_code.py")
        return _FLOPS[shape]

    @property
    def wavefronts(self) -> int:
        """Cycles of shared memory that it takes at least."""
        if self.kind == "LDSM":
            return int(self.name.split(".")[-1]) * _MATRIX_BYTES // 128
        if self.kind not in ("LDS", "STS", "LDGSTS", "ATOMS") or self.predicate == "!PT":
            return 0
        width = next((_BYTES_OF_LANE[part] for part in self.name.split(".") if part in _BYTES_OF_LANE), 4)
        return max(1, 32 * width // 128)


@dataclass(frozen=True)
class Pass:
    """What one pass of a loop costs a warp.

    Attributes:
        instructions: how many are issued.
        floats: those of the fp32 pipes.
        wavefronts: cycles of shared memory, without bank conflicts.
        flops: of the products on tensor cores.
    """

    instructions: int
    floats: int
    wavefronts: int
    flops: int


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


def tensor_loops(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """Return the loops with tensor-core instructions, outer ones first."""
    return [own for own in loops(code) if any(i.kind in _TENSOR for i in code[own[0] : own[1] + 1])]


def hottest(code: Sequence[Instruction], trips: int = 0) -> Pass | None:
    """Return what a pass of the loop with the most tensor-core instructions costs; None where no loop has any.

    Args:
        code: a kernel's.
        trips: 0 for the innermost loop; else the loop around it, which passes it so often.
    """
    found = tensor_loops(code)
    innermost = [own for own in found if not any(own != other and _within(other, own) for other in found)]
    if not innermost:
        return None
    inner = max(innermost, key=lambda own: cost(code, own).flops)
    if not trips:
        return cost(code, inner)
    outer = [own for own in found if own != inner and _within(inner, own)]
    return cost(code, outer[-1] if outer else inner, inner if outer else None, trips)


def cost(
    code: Sequence[Instruction], loop: tuple[int, int], inner: tuple[int, int] | None = None, trips: int = 1
) -> Pass:
    """Return what a pass of a loop costs, which passes an inner one several times."""
    counts: Counter[str] = Counter()
    for i in _path(code, *loop):
        item = code[i]
        times = trips if inner and inner[0] <= i <= inner[1] else 1
        counts["instructions"] += times
        counts["floats"] += times * (item.kind in _FLOATS)
        counts["wavefronts"] += times * item.wavefronts
        counts["flops"] += times * item.flops
    return Pass(**{name: counts[name] for name in ("instructions", "floats", "wavefronts", "flops")})


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


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
    """Return the indices of the instructions on the path of a full tile; all, where it leaves the loop's lines."""
    index = {item.address: i for i, item in enumerate(code)}
    worst = (-1, -1, 0)
    best: dict[int, tuple[int, ...]] = {}
    following: dict[int, int] = {}
    for i in range(last, first - 1, -1):
        item = code[i]
        own = (int(item.kind in _TENSOR), int(item.kind == "LDGSTS"), -1)
        options = [n for n in _successors(code, index, i) if n <= last]
        chosen = max(options, key=lambda n: best.get(n, worst), default=None)
        rest = (0, 0, 0) if i == last else best.get(chosen, worst) if chosen is not None else worst
        best[i] = worst if rest == worst else tuple(a + b for a, b in zip(own, rest, strict=True))
        if chosen is not None:
            following[i] = chosen
    if best[first] == worst:
        return list(range(first, last + 1))
    path = [first]
    while path[-1] != last:
        path.append(following[path[-1]])
    return path
