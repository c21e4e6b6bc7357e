"""Write the section "Launch plans" of docs/cuda-report.md: launches, waves and traffic at realistic sizes.

Grids come from the launchers themselves, run under the host shim (hsm_dump_launches); nothing is compiled for a GPU and
nothing is timed. Registers are those that the report's own table of kernels states. What a launch reads through the
second-level cache follows from its grid and from what each block reads, as the kernels' sources say.

Examples:
    cmake --build build/native --target hsm_dump_launches
    python tools/launch_plans.py                                       # writes the section anew, in seconds
    python tools/launch_plans.py --check                               # compares it instead
    python tools/launch_plans.py --call TaylorShift B=4 T=512 H=8 d=48 e=48 normalize=1 output_norm=1
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "cuda-report.md"
DUMP = ROOT / "build" / "native" / "tests" / "cuda" / "hsm_dump_launches"
HEADING = "## Launch plans"
FLOAT = 4
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

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes and the attributes that are one number."""
        pairs = (part.split("=") for part in self.numbers.split())
        return {name: int(value) for name, value in pairs if "," not in value}


def _taylor(operator: str, batch: int, length: int, width: int) -> Request:
    norms = "normalize=1" if operator.startswith("Causal") else "normalize=1 output_norm=1"
    return Request(operator, f"B={batch} T={length} H=16 d={width} e={width} {norms}")


REQUESTS = (
    *(_taylor("TaylorShift", 8, 4096, width) for width in (32, 64, 128)),
    _taylor("TaylorShift", 8, 512, 64),
    _taylor("TaylorShift", 1, 16384, 64),
    *(_taylor("CausalTaylorShift", 8, 4096, width) for width in (32, 64, 128)),
    _taylor("CausalTaylorShift", 1, 16384, 64),
    *(_taylor("CausalTaylorShift", batch, 1, 64) for batch in (1, 8, 64)),
    Request("ExpertMatMul", "B=8 T=1024 D=1024 H=4 E=4 f=64 k=2"),
    Request("ExpertMatMulSum", "B=8 T=1024 D=1024 H=4 E=4 f=64 k=2"),
    Request("ExpertMatMul", "B=8 T=1 D=1024 H=4 E=4 f=64 k=2"),
    Request("ShiftMix", "B=8 T=4096 D=2048 shifts=1,2,4,8"),
    Request("ShiftMixCached", "B=64 T=1 D=2048 R=8 shifts=1,2,4,8"),
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """All launches of one kernel in a call.

    Attributes:
        kernel: its name without our namespaces.
        grids: blocks of each launch.
        resident: blocks that the GPU holds at a time; 0 where the report knows no registers.
        cache_bytes: what all launches move through the second-level cache.
        sum_bytes: of the sums that all launches write into the workspace.
    """

    kernel: str
    grids: tuple[int, ...]
    resident: int
    cache_bytes: float
    sum_bytes: float = 0.0

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
    rows = re.findall(r"^\| `([^`]+)` \| sm_(\d+) \| (\d+) \|", report, re.MULTILINE)
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


def _up(count: int, unit: int) -> int:
    return -(-count // unit)


def feature_count(width: int) -> int:
    """Return F, the features of heads of a width."""
    return 1 + width + width * (width + 1) // 2


def feature_tiles(kernel: str, width: int) -> int:
    """Return how many blocks of `accumulate` one segment of a head has (taylor_call.h)."""
    return _up(feature_count(width), 128 if "tensor" in kernel else 64)


def slot_bytes(sizes: Mapping[str, int]) -> int:
    """Return the bytes of the sums of one segment of a head (taylor_call.h)."""
    features = feature_count(sizes["d"])
    return FLOAT * (features * _up(sizes["e"], 8) * 8 + _up(features, 4) * 4)


def cache_bytes(kernel: str, blocks: int, sizes: Mapping[str, int], element: int, moved: int) -> float:
    """Return what a kernel's blocks read and write through the second-level cache.

    Args:
        kernel: its name, as `bare` writes it.
        blocks: of all its launches.
        sizes: the call's.
        element: bytes of T.
        moved: inputs and outputs of the call, each once, in bytes.
    """
    if kernel.startswith("expert_matmul"):
        return _expert_bytes(kernel, blocks, sizes, element)
    if not kernel.startswith(("taylor", "causal_taylor")):
        return moved  # shifts: each block has its own part of the tensors
    length, heads, width, columns = sizes["T"], sizes["B"] * sizes["H"], sizes["d"], sizes["e"]
    features, slot = feature_count(width), slot_bytes(sizes)
    row = (width + columns) * element
    if kernel.startswith("causal_taylor_step_finish"):
        return 0.0
    if kernel.startswith("causal_taylor_step"):
        return 2.0 * heads * FLOAT * features * (columns + 1) + blocks * row
    if kernel.startswith("taylor_accumulate"):
        tiles = feature_tiles(kernel, width)
        return float(heads * length * row * tiles + blocks // tiles * slot)
    slots = sizes.get("slots", 0)  # the direct form has none
    if kernel.startswith("taylor_combine"):
        return float(2 * (slots + heads) * slot if sizes["causal"] else (slots + heads) * slot)
    by_sums, by_keys = ("true" in part for part in kernel.rstrip(">").split(",")[-2:])
    seen = length // 2 if sizes["causal"] and not by_sums else length
    if by_sums and by_keys:
        seen = length * heads // (2 * slots)  # about half of its own segment
    return float(blocks * (by_sums * slot + by_keys * seen * row) + 2 * heads * length * row)


def _expert_bytes(kernel: str, blocks: int, sizes: Mapping[str, int], element: int) -> float:
    """Return what blocks of expert_matmul_* read: rows of x that they chose, and columns of the experts' matrices."""
    inputs, chosen = sizes["D"], sizes["k"]
    if kernel.startswith("expert_matmul_gather"):
        vectors = int(kernel.rstrip(">").split(",")[-1])
        return float(blocks * inputs * (chosen * 8 * vectors + 1) * element)
    tokens = int(kernel.split(",")[1])
    return float(blocks * sizes["heads"] * inputs * (tokens * chosen + min(sizes["E"], tokens * chosen) * 64) * element)


def planned(answer: Mapping[str, Any], request: Request, gpu: Gpu, known: Mapping[tuple[str, int], int]) -> list[Work]:
    """Return the kernels of a call, in their order."""
    sizes = dict(request.sizes)
    sizes["causal"] = int(request.operator.startswith("Causal"))
    sizes["heads"] = sizes.get("H", 1) if request.operator.endswith("Sum") else 1
    element = 4 if answer["type"] == "fp32" else 2
    groups: dict[str, list[dict[str, Any]]] = {}
    for launch in answer["launches"]:
        groups.setdefault(bare(launch["kernel"]), []).append(launch)
    found = []
    for kernel, launches in groups.items():
        grids = tuple(x * y * z for x, y, z in (launch["grid"] for launch in launches))
        x, y, z = launches[0]["block"]
        if kernel.startswith("taylor_accumulate"):
            sizes["slots"] = sum(grids) // feature_tiles(kernel, sizes["d"])
        used = known.get((kernel, gpu.code), 0)
        resident = resident_blocks(gpu, used, x * y * z, launches[0]["shared"]) if used else 0
        moved = cache_bytes(kernel, sum(grids), sizes, element, answer["bytes"])
        sums = sizes["slots"] * slot_bytes(sizes) if kernel.startswith("taylor_accumulate") else 0
        found.append(Work(kernel, grids, resident, moved, sums))
    return found


def memory_bytes(answer: Mapping[str, Any], works: list[Work], gpu: Gpu) -> float:
    """Return what a call moves to and from memory: its tensors once, and sums that the cache does not hold.

    Beyond the cache, the sums of a round are written by `accumulate`, read and at most written by `combine`, and read
    by `attend`.
    """
    total = sum(work.sum_bytes for work in works)
    rounds = max((len(work.grids) for work in works), default=1)
    return float(answer["bytes"]) + (4.0 * total if total / rounds > gpu.cache else 0.0)


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
    dump: Path, report: str, requests: tuple[Request, ...] = REQUESTS
) -> Iterator[tuple[Request, str, dict[str, Any], list[Work]]]:
    """Yield each call on each GPU with what the launchers answer and the kernels of it."""
    known = registers(report)
    pairs = [(request, name) for request in requests for name in GPUS]
    lines = []
    for request, name in pairs:
        gpu = GPUS[name]
        device = f"{gpu.type} {gpu.sm} {gpu.multiprocessors} {gpu.block_shared}"
        lines.append(f"{request.operator} {device} {request.numbers}")
    for (request, name), answer in zip(pairs, ask(dump, lines), strict=True):
        yield request, name, answer, planned(answer, request, GPUS[name], known)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def rows(dump: Path, report: str, requests: tuple[Request, ...] = REQUESTS) -> list[list[str]]:
    """Return the table's rows."""
    found = []
    for request, name, answer, works in plans(dump, report, requests):
        shown = " ".join(
            part for part in request.numbers.split() if part.split("=")[0] not in ("normalize", "output_norm")
        )
        found.append(
            [
                f"{request.operator} {shown}",
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
