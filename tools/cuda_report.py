"""Write docs/cuda-report.md: what the CUDA kernels use and could reach, read from compiled code, without a GPU.

Registers, static shared memory and instructions come from the fat binary through cuobjdump; grids, blocks and dynamic
shared memory from the launchers themselves, run under the host shim (hsm_dump_launches). Ends with exit code 1 when a
kernel spills registers, when a launched kernel is not in the binary, when a launch fails, or with --check when the file
is stale.

Examples:
    bash tools/cuda_report.sh                                             # builds both, then the report
    python tools/cuda_report.py --library LIBRARY --dump PROGRAM --check
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ceilings
import launch_plans
import machine_code
from fat_binary import ARCHITECTURES, bare, demangled, disassembler, read_listings, run
from launch_plans import table

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "cuda-report.md"
SHOWN = (80, 86, 89, 90, 120)
REGISTERS_PER_MULTIPROCESSOR = 65536
WARP = 32
INSTRUCTION_BYTES = 16


@dataclass
class Code:
    """One kernel, compiled for one architecture.

    Attributes:
        registers: of each thread.
        shared: static shared memory in bytes; the launchers ask for the rest.
        instructions: how many there are of all.
        tensor: tensor-core instructions.
        asynchronous: asynchronous copies to shared memory.
        spills: loads and stores of a thread's local memory, which only spilled registers and indexed arrays make.
    """

    registers: int = 0
    shared: int = 0
    instructions: int = 0
    tensor: int = 0
    asynchronous: int = 0
    spills: int = 0


def compiler() -> str:
    """Return the name and release of the compiler."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    found = re.search(r"release ([\d.]+)", run(nvcc, "--version"))
    return f"nvcc {found.group(1) if found else 'of unknown release'}"


def read_code(library: Path) -> dict[tuple[str, int], Code]:
    """Return what the fat binary holds, by kernel (demangled, without parameters) and architecture."""
    tool = str(disassembler())
    kernels: dict[tuple[str, int], Code] = defaultdict(Code)
    sm, name = 0, ""
    for line in demangled(run(tool, "-res-usage", str(library))):
        if match := re.match(r"arch = sm_(\d+)", line):
            sm = int(match.group(1))
        elif match := re.match(r" Function (.+):$", line):
            name = bare(match.group(1))
        elif match := re.search(r"REG:(\d+).* SHARED:(\d+)", line):
            code = kernels[name, sm]
            code.registers, code.shared = int(match.group(1)), int(match.group(2))
    for key, listing in read_listings(library):
        for instruction in machine_code.parse(listing):
            count(kernels[key], instruction.name)
    return dict(kernels)


def count(code: Code, instruction: str) -> None:
    """Add one instruction to what is known of a kernel."""
    code.instructions += 1
    code.tensor += instruction.startswith(("HMMA", "HGMMA", "QGMMA", "UTCHMMA"))
    code.asynchronous += instruction.startswith("LDGSTS")
    code.spills += instruction.startswith(("LDL", "STL"))


def occupancy(code: Code, sm: int, threads: int, dynamic_shared: int) -> float:
    """Return resident over possible threads of a multiprocessor, from registers, shared memory and block size."""
    limits = ARCHITECTURES[sm]
    warps = -(-threads // WARP)
    registers_of_warp = -(-code.registers * WARP // 256) * 256
    # From sm_80 on the driver keeps 1 KiB of each block; from sm_90 on the compiler counts it in.
    shared = code.shared + dynamic_shared + (1024 if 80 <= sm < 90 else 0)
    blocks = min(
        limits.blocks,
        limits.threads // (warps * WARP),
        REGISTERS_PER_MULTIPROCESSOR // max(registers_of_warp * warps, 1),
        limits.shared // shared if shared else limits.blocks,
    )
    return blocks * warps * WARP / limits.threads


def bound_seconds(row: dict[str, Any], code: list[Code]) -> tuple[float, str]:
    """Return the least time of a call on the architecture's GPU, and what bounds it."""
    peak = ARCHITECTURES[row["sm"]]
    rate = peak.tensor_flops if any(item.tensor for item in code) else peak.flops
    memory = row["bytes"] / peak.bandwidth
    compute = row["flops"] / rate
    return (memory, "memory") if memory >= compute else (compute, "arithmetic")


def kernel_rows(
    kernels: dict[tuple[str, int], Code], launched: dict[tuple[str, int], tuple[int, int]]
) -> list[list[str]]:
    """Return one row per kernel and shown architecture."""
    rows = []
    for (name, sm), code in sorted(kernels.items()):
        if sm not in SHOWN:
            continue
        threads, shared = launched.get((name, sm), (0, 0))
        share = f"{occupancy(code, sm, threads, shared):.0%}" if threads else "-"
        tensor = str(code.tensor) if code.tensor else "-"
        size = f"{code.instructions * INSTRUCTION_BYTES / 1024:.1f}"
        rows.append(
            [
                f"`{name}`",
                f"sm_{sm}",
                str(code.registers),
                str(code.spills),
                str(code.shared + shared),
                str(threads or "-"),
                share,
                tensor,
                str(code.asynchronous or "-"),
                size,
            ]
        )
    return rows


def launch_rows(launches: list[dict[str, Any]], kernels: dict[tuple[str, int], Code]) -> list[list[str]]:
    """Return one row per typical call, tactic and type, on the architectures shown."""
    rows = []
    for row in launches:
        if row["sm"] not in (80, 86, 90) or row["type"] == "bf16":
            continue
        names = [bare(item["kernel"]) for item in row["launches"]]
        seconds, limit = bound_seconds(row, [kernels.get((name, row["sm"]), Code()) for name in names])
        work = row["flops"]
        rows.append(
            [
                f"{row['operator']} {row['case']}",
                f"sm_{row['sm']}",
                row["type"],
                row["tactic"] + (" (default)" if row["default"] else ""),
                str(len(names)),
                f"{row['bytes'] / 2**20:.2f}",
                f"{work / 1e9:.3g}",
                f"{work / row['bytes']:.3g}",
                f"{row['workspace'] / 2**20:.2f}",
                f"{seconds * 1e6:.3g}",
                limit,
            ]
        )
    return rows


def largest_launches(launches: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return threads of a block and dynamic shared memory by kernel and architecture: of the launch that takes most."""
    largest: dict[tuple[str, int], tuple[int, int]] = {}
    for row in launches:
        for item in row["launches"]:
            key = bare(item["kernel"]), row["sm"]
            x, y, z = item["block"]
            largest[key] = max(largest.get(key, (0, 0)), (x * y * z, item["shared"]), key=lambda pair: pair[::-1])
    return largest


def report(kernels: dict[tuple[str, int], Code], launches: list[dict[str, Any]]) -> str:
    """Return the document."""
    gpus = ", ".join(f"sm_{sm} {value.gpu}" for sm, value in ARCHITECTURES.items())
    lines = [
        "# CUDA kernels without a GPU",
        "",
        f"Compiler: {compiler()}.",
        "",
        "Written by `make cuda-report` from the compiled fat binary and from what the launchers choose; nothing was",
        "timed. **Not yet run on hardware.** Spills are loads and stores of local memory in the machine code. Shared",
        "memory and occupancy are those of the largest launch among the calls of the second table; tensor-core and",
        "asynchronous-copy figures count instructions in the code, not executions.",
        "",
        "## Kernels",
        "",
        *table(
            "kernel, architecture, registers, spills, shared bytes, threads, occupancy, tensor ops, async copies, KiB",
            kernel_rows(kernels, largest_launches(launches)),
        ),
        "## Typical calls against the roofline",
        "",
        "The calls are those of the families' `cases.py`. MiB counts every input and output once, Gflop what the",
        "operator's specification says that a call needs, whatever form the tactic takes; the bound is the larger of",
        f"bytes over bandwidth and flops over rate, from the data sheets of: {gpus}.",
        "",
        *table(
            "call, architecture, type, tactic, kernels, MiB, Gflop, flops/byte, workspace MiB, bound us, bound by",
            launch_rows(launches, kernels),
        ),
    ]
    return "\n".join(lines)


def faults(kernels: dict[tuple[str, int], Code], launches: list[dict[str, Any]]) -> list[str]:
    """Return what must not be: spills, launches that fail, kernels that are not in the binary."""
    known = {name for name, _ in kernels}
    named = {bare(item["kernel"]) for row in launches for item in row["launches"]}
    found = [f"{name} spills registers on sm_{sm}" for (name, sm), code in sorted(kernels.items()) if code.spills]
    found += [f"{name} is launched, but not in the fat binary" for name in sorted(named - known)]
    found += [
        f"{row['operator']} {row['case']} {row['type']} {row['tactic']} on sm_{row['sm']}: error {row['error']}"
        for row in launches
        if row["error"]
    ]
    return found


def main() -> int:
    """Write or check the report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="a library with the fat binary")
    parser.add_argument("--dump", type=Path, required=True, help="the program hsm_dump_launches")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    options = parser.parse_args()
    kernels = read_code(options.library)
    launches = [json.loads(line) for line in run(str(options.dump)).splitlines()]
    text = launch_plans.with_section(report(kernels, launches), options.dump)
    text = ceilings.with_section(text, options.library, options.dump)
    wrong = faults(kernels, launches)
    if options.check:
        if not REPORT.exists() or REPORT.read_text(encoding="utf-8") != text:
            wrong.append(f"{REPORT.relative_to(ROOT)} is stale; run `make cuda-report`")
    else:
        REPORT.write_text(text, encoding="utf-8")
        print(f"wrote {REPORT.relative_to(ROOT)}: {len(kernels)} kernels, {len(launches)} calls")
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
