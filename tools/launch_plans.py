"""Write the section "Launch plans" of docs/cuda-report.md: launches, waves and traffic at realistic sizes.

Grids come from the launchers themselves, run under the host shim (hsm_dump_launches); nothing is compiled for a GPU and
nothing is timed. Registers are those that the report's own table of kernels states. What a launch reads through the
second-level cache follows from its grid and from what each block reads, as the kernels' sources say.

Examples:
    cmake --build build/native --target hsm_dump_launches
    python tools/launch_plans.py                                       # writes the section anew, in seconds
    python tools/launch_plans.py --check                               # compares it instead
    python tools/launch_plans.py --call OPERATOR B=4 T=512 D=64 ... ATTRIBUTE=1,2,4
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hsm_operators import OPERATORS
from hsm_operators.case import Case, Traffic
from hsm_operators.registry import families

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "cuda-report.md"
DUMP = ROOT / "build" / "native" / "tests" / "cuda" / "hsm_dump_launches"
HEADING = "## Launch plans"
REGISTERS_PER_MULTIPROCESSOR = 65536
WARP = 32


@dataclass(frozen=True)
class Gpu:
    """What the launchers ask of a GPU, and its limits (NVIDIA's data sheets and the CUDA programming guide).

    Attributes:
        sm: compute capability, 90 is 9.0.
        multiprocessors: how many there are.
        block_shared: shared memory that a block may have, bytes.
        shared: of a multiprocessor, bytes.
        threads: resident ones of a multiprocessor.
        blocks: resident ones of a multiprocessor.
        cache: the second level's, bytes.
        code: the architecture in the table of kernels whose registers are taken.
        type: the 2-byte type that its tensor cores multiply.
    """

    sm: int
    multiprocessors: int
    block_shared: int
    shared: int
    threads: int
    blocks: int
    cache: int
    code: int
    type: str = "bf16"


_KIB, _MIB = 1024, 1024 * 1024
GPUS = {
    "T4": Gpu(75, 40, 64 * _KIB, 64 * _KIB, 1024, 16, 4 * _MIB, 80, "fp16"),
    "A100": Gpu(80, 108, 163 * _KIB, 164 * _KIB, 2048, 32, 40 * _MIB, 80),
    "RTX 4090": Gpu(89, 128, 99 * _KIB, 100 * _KIB, 1536, 24, 72 * _MIB, 89),
    "H200": Gpu(90, 132, 227 * _KIB, 228 * _KIB, 2048, 32, 50 * _MIB, 90),
    "B200": Gpu(100, 148, 227 * _KIB, 228 * _KIB, 2048, 32, 126 * _MIB, 90),
}


@dataclass(frozen=True)
class Request:
    """A call to plan: an operator, and its sizes and attributes as text."""

    operator: str
    numbers: str

    @classmethod
    def of(cls, case: Case) -> Request:
        """Return the request of a family's case."""
        attributes = (f"{name}={_list(value)}" for name, value in case.attributes.items())
        return cls(case.operator.name, " ".join([*(f"{k}={v}" for k, v in case.sizes.items()), *attributes]))

    def case(self) -> Case:
        """Return the case, with the sizes that follow from others.

        Raises:
            SystemExit: there is no such operator.
        """
        operator = next((own for own in OPERATORS.values() if own.name == self.operator), None)
        if operator is None:
            sys.exit(f"error: there is no operator {self.operator}")
        pairs = dict(part.split("=") for part in self.numbers.split())
        attributes = {a.name for a in operator.attributes}
        values = {name: tuple(map(int, text.split(","))) for name, text in pairs.items()}
        single = {name: value[0] if len(value) == 1 else value for name, value in values.items()}
        return Case(
            operator,
            {name: value[0] for name, value in values.items() if name not in attributes},
            {name: value for name, value in single.items() if name in attributes},
        )


def _list(value: float | tuple[int, ...]) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def launch_modules() -> Iterator[ModuleType]:
    """Yield the families' modules `launches`: calls of real models, and what their kernels move."""
    for package in families():
        with contextlib.suppress(ModuleNotFoundError):
            yield importlib.import_module(f"{package}.launches")


def large_calls() -> tuple[Request, ...]:
    """Return the calls that the report describes."""
    return tuple(Request.of(case) for module in launch_modules() for case in module.LARGE)


@dataclass(frozen=True)
class Work:
    """All launches of one kernel in a call.

    Attributes:
        kernel: its name without our namespaces.
        grids: blocks of each launch.
        resident: blocks that the GPU holds at a time; 0 where the report knows no registers.
        cache_bytes: what all launches move through the second-level cache.
        kept: bytes that all launches leave in the workspace for the next kernel.
        flops: of the definition's products that all launches make.
    """

    kernel: str
    grids: tuple[int, ...]
    resident: int
    cache_bytes: float
    kept: float = 0.0
    flops: float = 0.0

    @property
    def waves(self) -> float:
        """How often the largest launch fills the GPU."""
        return max(self.grids) / self.resident if self.resident else 0.0

    @property
    def busy(self) -> float:
        """Blocks over the places that their waves have, all launches together."""
        places = sum(-(-blocks // self.resident) * self.resident for blocks in self.grids)
        return sum(self.grids) / places

    @property
    def balance(self) -> float:
        """Blocks of the smallest launch over those of the largest."""
        return min(self.grids) / max(self.grids)


def registers(report: str) -> dict[tuple[str, int], int]:
    """Return the registers of a thread by kernel and architecture, from the report's first table."""
    _, _, table = report.partition("## Kernels\n")
    rows = re.findall(r"^\| `([^`]+)` \| sm_(\d+) \| (\d+) \|", table.partition("\n## ")[0], re.MULTILINE)
    return {(name, int(sm)): int(count) for name, sm, count in rows}


def bare(name: str) -> str:
    """Return a kernel's name as the report writes it."""
    return re.sub(r"hsm::(?:cuda::)?", "", name).replace(" ", "")


def resident_blocks(gpu: Gpu, registers_of_thread: int, threads: int, shared: int) -> int:
    """Return how many blocks of a launch the GPU holds at a time."""
    warps = -(-threads // WARP)
    registers_of_warp = -(-registers_of_thread * WARP // 256) * 256
    kept = 1024 if gpu.sm >= 80 else 0  # the driver's own, of each block
    limits = [gpu.blocks, gpu.threads // (warps * WARP), REGISTERS_PER_MULTIPROCESSOR // (registers_of_warp * warps)]
    limits += [gpu.shared // (shared + kept)] if shared + kept else []
    return min(limits) * gpu.multiprocessors


def planned(answer: Mapping[str, Any], request: Request, gpu: Gpu, known: Mapping[tuple[str, int], int]) -> list[Work]:
    """Return the kernels of a call, in their order."""
    case = request.case()
    sizes = case.all_sizes | {name: value for name, value in case.attributes.items() if isinstance(value, int)}
    package = next(own for own in families() if case.operator in importlib.import_module(f"{own}.spec").OPERATORS)
    traffic = getattr(importlib.import_module(f"{package}.launches"), "traffic", None)
    element = 4 if answer["type"] == "fp32" else 2
    groups: dict[str, list[dict[str, Any]]] = {}
    for launch in answer["launches"]:
        groups.setdefault(bare(launch["kernel"]), []).append(launch)
    grids = {name: tuple(math.prod(item["grid"]) for item in launches) for name, launches in groups.items()}
    blocks = {name: sum(counts) for name, counts in grids.items()}
    found = []
    for kernel, launches in groups.items():
        used = known.get((kernel, gpu.code), 0)
        resident = resident_blocks(gpu, used, math.prod(launches[0]["block"]), launches[0]["shared"]) if used else 0
        # Without a word of the family, each block has its own part of the tensors.
        moved = traffic(kernel, blocks, sizes, element) if traffic else Traffic(answer["bytes"] / len(groups))
        found.append(Work(kernel, grids[kernel], resident, moved.cache_bytes, moved.kept, moved.flops))
    return found


def spilled_bytes(works: list[Work], gpu: Gpu) -> list[float]:
    """Return what each kernel moves between memory and workspace: nothing where the cache holds what a round keeps.

    Beyond the cache, what one kernel leaves in the workspace is written by it, read and at most written by the second,
    and read by the third.
    """
    kept = sum(work.kept for work in works)
    rounds = max((len(work.grids) for work in works), default=1)
    if kept / rounds <= gpu.cache:
        return [0.0] * len(works)
    return [kept if index in (0, len(works) - 1) else 2 * kept for index in range(len(works))]


def memory_bytes(answer: Mapping[str, Any], works: list[Work], gpu: Gpu) -> float:
    """Return what a call moves to and from memory: its tensors once, and sums that the cache does not hold."""
    return float(answer["bytes"]) + sum(spilled_bytes(works, gpu))


def ask(dump: Path, lines: list[str]) -> list[dict[str, Any]]:
    """Return what the launchers answer.

    Raises:
        SystemExit: the program is missing or does not know what is asked.
    """
    if not dump.is_file():
        sys.exit(f"error: there is no {dump}; cmake --build build/native --target hsm_dump_launches")
    text = "".join(line + "\n" for line in lines)
    done = subprocess.run([str(dump), "-"], input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return [json.loads(line) for line in done.stdout.splitlines()]


def plans(
    dump: Path, report: str, requests: tuple[Request, ...] = ()
) -> Iterator[tuple[Request, str, dict[str, Any], list[Work]]]:
    """Yield each call, or each of the report's, on each GPU with what the launchers answer and the kernels of it."""
    known = registers(report)
    pairs = [(request, name) for request in requests or large_calls() for name in GPUS]
    lines = []
    for request, name in pairs:
        gpu = GPUS[name]
        device = f"{gpu.type} {gpu.sm} {gpu.multiprocessors} {gpu.block_shared}"
        lines.append(f"{request.operator} {device} {request.numbers}")
    for (request, name), answer in zip(pairs, ask(dump, lines), strict=True):
        yield request, name, answer, planned(answer, request, GPUS[name], known)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def rows(dump: Path, report: str, requests: tuple[Request, ...] = ()) -> list[list[str]]:
    """Return the table's rows."""
    found = []
    for request, name, answer, works in plans(dump, report, requests):
        found.append(
            [
                f"{request.operator} {request.case().label}",
                name,
                answer["tactic"] + (f": error {answer['error']}" if answer["error"] else ""),
                " + ".join(str(len(work.grids)) for work in works),
                " / ".join(_number(work.waves) for work in works),
                " / ".join(f"{work.waves % 1 or 1:.0%}" for work in works),
                " / ".join(f"{work.busy:.0%}" if work.resident else "-" for work in works),
                _number(sum(work.cache_bytes for work in works) / 1e6),
                _number(memory_bytes(answer, works, GPUS[name]) / 1e6),
            ]
        )
    return found


def table(header: str, rows: list[list[str]]) -> list[str]:
    """Return a Markdown table from its columns' names, separated by commas, and its rows."""
    names = header.split(", ")
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def section(dump: Path, report: str) -> str:
    """Return the section of the report."""
    header = ("call", "GPU", "tactic", "launches", "waves", "last wave", "busy", "L2 MB", "memory MB")
    lines = [
        HEADING,
        "",
        "Written by `python tools/launch_plans.py` from what the launchers choose for realistic calls, in bfloat16",
        "(T4: float16); `--call` plans others. In the order of a call's kernels: how often each is launched (one",
        "for each group of heads), how many times its largest launch fills the GPU, how full the last wave is, and",
        "how many of the places in all waves have a block. Registers are those of the table above, for a T4 those",
        "of sm_80 and for a B200 those of sm_90. L2 is what all blocks together read and write through the second-",
        "level cache, memory the call's tensors once and, where the sums of a round exceed that cache, their way",
        "out and back. Counted from the grids and the sources, not measured.",
        "",
        "| " + " | ".join(header) + " |",
        "| --- | --- | --- |" + " ---: |" * (len(header) - 3),
        *("| " + " | ".join(row) + " |" for row in rows(dump, report)),
        "",
    ]
    return "\n".join(lines)


def with_section(report: str, dump: Path) -> str:
    """Return the report with the section written anew, at its end."""
    before = report.split(HEADING)[0].rstrip("\n") + "\n\n"
    return before + section(dump, before)


def main() -> int:
    """Write or check the section, or plan one call; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", type=Path, default=DUMP, help="the program hsm_dump_launches")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    parser.add_argument(
        "--call", nargs="+", metavar="WORD", help="an operator, then NAME=NUMBER of sizes and attributes"
    )
    options = parser.parse_args()
    report = REPORT.read_text(encoding="utf-8")
    if options.call:
        for row in rows(options.dump, report, (Request(options.call[0], " ".join(options.call[1:])),)):
            print(" | ".join(row))
        return 0
    text = with_section(report, options.dump)
    if not options.check:
        REPORT.write_text(text, encoding="utf-8")
        print(f"wrote {REPORT.relative_to(ROOT)}")
    elif text != report:
        print(f"error: {REPORT.relative_to(ROOT)} is stale; run `python tools/launch_plans.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
