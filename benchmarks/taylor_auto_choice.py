"""The form that the TaylorShift kernel chooses against the better of the two, in CPU time of one thread.

Runs the C++ program hsm_bench_taylor_shift, which `bash tools/cpp_test.sh release` builds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import common

PROGRAM = common.ROOT / "build" / "native" / "tests" / "hsm_bench_taylor_shift"
# The kernel's costs were fitted to measurements of the first widths; the claim is about the others too.
FITTED = (4, 8, 16, 24, 32, 48, 64)
HELD_OUT = (6, 20, 28, 36, 56)
# Lengths around the crossover, as multiples of the number of features, 1 + d + d(d+1)/2.
MULTIPLES = (0.3, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.8, 3.0)


def main() -> None:
    """Measure around the crossover of every head width."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    if not PROGRAM.exists():
        print(f"error: {PROGRAM} is missing\nhint: bash tools/cpp_test.sh release", file=sys.stderr)
        sys.exit(3)
    for name, dims in (("widths of the fit", FITTED), ("other widths", HELD_OUT)):
        worst = max(compare(report, dim, quick) for dim in (dims[:1] if quick else dims))
        report.at_most(f"TaylorShift auto over the better form, largest ratio, {name}", worst, 1.05)
    report.finish()


def compare(report: common.Report, dim: int, quick: bool) -> float:
    """Record one width; return the largest ratio of the chosen form to the better one."""
    ratios = []
    for row in measure(dim, 1 if quick else 9):
        best = min(row["direct"], row["efficient"])
        ratios.append(row["auto"] / best)
        report.row(
            dim=dim,
            length=int(row["length"]),
            direct_us=row["direct"] * 1e6,
            efficient_us=row["efficient"] * 1e6,
            direct_over_efficient=row["direct"] / row["efficient"],
            auto_over_best=ratios[-1],
        )
    return max(ratios)


def measure(dim: int, repetitions: int) -> list[dict[str, float]]:
    """Time both forms and the chosen one at lengths around the crossover; times in seconds."""
    features = 1 + dim + dim * (dim + 1) // 2
    shapes = [f"{dim}:{max(1, round(features * multiple))}" for multiple in MULTIPLES]
    done = subprocess.run([str(PROGRAM), str(repetitions), "1", *shapes], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
