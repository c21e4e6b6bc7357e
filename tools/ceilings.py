"""Write the section "Ceilings from machine code" of docs/cuda-report.md: what loops on tensor cores could reach.

For each kernel the loop with most of its tensor-core instructions is taken from the compiled code, and what a pass of a
full tile takes of each unit of a multiprocessor: issue slots, fp32 pipes, shared memory, tensor cores. The scarcest
bounds the rate. For realistic calls (launch_plans.py) those rates, the second-level cache and memory give a least time.
Nothing is run: latencies, barriers and conflicts come on top.

Examples:
    python tools/ceilings.py --library build/cuda/tensorrt/libhsm_tensorrt.so    # writes the section anew
    python tools/ceilings.py --library kernel.cubin --print                      # the first table alone
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import fat_binary
import launch_plans
import machine_code
from machine_code import Pass

from hsm_operators.case import TensorLoop

HEADING = "## Ceilings from machine code"
SCHEDULERS = 4  # of a multiprocessor, one instruction of a warp a cycle each


@dataclass(frozen=True)
class Unit:
    """What a multiprocessor does in a cycle, and what its GPU's second-level cache delivers.

    Attributes:
        tensor: flops of float16 products with fp32 sums that the data sheet counts.
        reached: the part of it that mma.sync reaches; Hopper gives the rest to wgmma alone.
        floats: fp32 instructions of a warp.
        cache: bytes per second of the second level, from published microbenchmarks.
    """

    tensor: int
    reached: float
    floats: int
    cache: float


UNITS = {
    80: Unit(2048, 1.0, 2, 5.0e12),
    86: Unit(512, 1.0, 4, 2.5e12),
    89: Unit(512, 1.0, 4, 5.0e12),
    90: Unit(4096, 0.63, 4, 5.5e12),
    120: Unit(512, 1.0, 4, 6.0e12),
}


@dataclass(frozen=True)
class Ceiling:
    """What bounds a kernel's loop.

    Attributes:
        cycles: of a multiprocessor for one pass of a warp, by unit.
        flops: of the definition, per second on the architecture's GPU.
        cost: the pass.
    """

    cycles: Mapping[str, float]
    flops: float
    cost: Pass

    @property
    def unit(self) -> str:
        """The scarcest unit."""
        return max(self.cycles, key=lambda name: self.cycles[name])


def ceiling(cost: Pass, sm: int, products: float) -> Ceiling:
    """Return what bounds a loop.

    Args:
        cost: of a pass.
        sm: the architecture.
        products: of the tensor cores for one of the definition's.
    """
    unit, peak = UNITS[sm], fat_binary.ARCHITECTURES[sm]
    cycles = {
        "issue": cost.instructions / SCHEDULERS,
        "fp32": cost.floats / unit.floats,
        "shared": float(cost.wavefronts),
        "tensor": cost.flops / (unit.tensor * unit.reached),
    }
    cycles_per_second = peak.tensor_flops / unit.tensor  # of all multiprocessors together
    return Ceiling(cycles, cost.flops / products / max(cycles.values()) * cycles_per_second, cost)


def loop_of(kernel: str) -> TensorLoop:
    """Return what the family of a kernel says of its loop."""
    for module in launch_plans.launch_modules():
        found = getattr(module, "tensor_loop", lambda _: None)(kernel)
        if isinstance(found, TensorLoop):
            return found
    return TensorLoop()


def ceilings(library: Path) -> dict[tuple[str, int], Ceiling]:
    """Return what bounds each kernel with tensor-core loops, by kernel and architecture."""
    found = {}
    for (name, sm), listing in fat_binary.read_listings(library):
        if sm not in UNITS:
            continue
        loop = loop_of(name)
        cost = machine_code.hottest(machine_code.parse(listing), loop.trips)
        if cost:
            found[name, sm] = ceiling(cost, sm, loop.products)
    return found


def rows(found: Mapping[tuple[str, int], Ceiling]) -> list[list[str]]:
    """Return the first table's rows: kernels of bfloat16, which those of float16 equal."""
    table = []
    for (name, sm), own in sorted(found.items()):
        if "__half" in name:
            continue
        peak = fat_binary.ARCHITECTURES[sm].tensor_flops
        units = [f"{own.cycles[unit]:.0f}" for unit in ("issue", "fp32", "shared", "tensor")]
        numbers = [f"{own.flops / 1e12:.0f}", f"{own.flops / peak:.0%}", own.unit]
        table.append([f"`{name}`", f"sm_{sm}", str(own.cost.instructions), *units, *numbers])
    return table


def call_rows(found: Mapping[tuple[str, int], Ceiling], report: str, dump: Path) -> Iterator[list[str]]:
    """Yield the second table's rows: calls on tensor cores whose families say what their kernels multiply."""
    for request, name, answer, works in launch_plans.plans(dump, report):
        gpu = launch_plans.GPUS[name]
        bounded = [work.flops for work in works if (work.kernel, gpu.sm) in found]
        if not bounded or not all(bounded):
            continue
        peak, unit = fat_binary.ARCHITECTURES[gpu.sm], UNITS[gpu.sm]
        memory = launch_plans.memory_bytes(answer, works, gpu) / peak.bandwidth
        parts = []
        for work, spilled in zip(works, launch_plans.spilled_bytes(works, gpu), strict=True):
            own = found.get((work.kernel, gpu.sm))
            compute = work.flops / own.flops if own else 0.0
            parts.append(max(compute, work.cache_bytes / unit.cache, spilled / peak.bandwidth) / work.busy)
        seconds = max(sum(parts), memory)
        least = max(answer["flops"] / peak.tensor_flops, answer["bytes"] / peak.bandwidth)
        times = " + ".join(f"{part * 1e6:.3g}" for part in parts)
        label = f"{request.operator} {request.case().label}"
        yield [
            label,
            name,
            answer["tactic"],
            times,
            f"{seconds * 1e6:.3g}",
            f"{least * 1e6:.3g}",
            f"{least / seconds:.0%}",
        ]


def section(library: Path, report: str, dump: Path) -> str:
    """Return the section of the report; `report` holds the registers of the kernels."""
    found = ceilings(library)
    lines = [
        HEADING,
        "",
        "Written by `python tools/ceilings.py` from the compiled code; not measured. A row is the loop that has most",
        "of a kernel's tensor-core instructions, and what one pass of a full tile by one warp takes of each unit of a",
        "multiprocessor, in cycles: instructions over four schedulers, fp32 instructions, shared memory without bank",
        "conflicts, tensor cores (on sm_90 63 % of the data sheet's rate, which is what mma.sync gets). The largest",
        "bounds the rate, in TFLOP/s of the definition's products; the share is of the data sheet's rate. Code that a",
        "full tile may skip does not count, nor do latencies. Kernels of float16 are those of bfloat16.",
        "",
        *launch_plans.table(
            "kernel, architecture, instructions, issue, fp32, shared, tensor, TFLOP/s, share, bound by", rows(found)
        ),
        "What follows for the calls of the next section, in microseconds for each kernel: products at those rates, or",
        "what goes through the second-level cache, or through memory what the cache does not hold of a round's sums,",
        "where that takes longer, over the share of places in waves that have a block. The least time is that of the",
        "data sheet for the flops of the specification and each tensor once.",
        "",
        *launch_plans.table("call, GPU, tactic, kernels, sum, least, share", list(call_rows(found, report, dump))),
    ]
    return "\n".join(lines)


def with_section(report: str, library: Path, dump: Path) -> str:
    """Return the report with the section written anew, before that of the launch plans."""
    before, _, after = report.partition(launch_plans.HEADING)
    own = section(library, report, dump)
    return before.split(HEADING)[0].rstrip("\n") + "\n\n" + own + "\n" + launch_plans.HEADING + after


def main() -> int:
    """Write the section or print the first table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="a library, object or cubin with compiled kernels")
    parser.add_argument("--dump", type=Path, default=launch_plans.DUMP, help="the program hsm_dump_launches")
    parser.add_argument("--print", action="store_true", help="print the loops instead of writing the section")
    options = parser.parse_args()
    if options.print:
        for row in rows(ceilings(options.library)):
            print(" | ".join(row))
        return 0
    report = launch_plans.REPORT.read_text(encoding="utf-8")
    launch_plans.REPORT.write_text(with_section(report, options.library, options.dump), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
