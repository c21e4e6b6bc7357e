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
    rows = measure(dim, 1 if quick else 9)
    ratios = [row["auto"] / min(row["direct"], row["efficient"]) for row in rows]
    worst = max(range(len(rows)), key=ratios.__getitem__)
    report.row(
        dim=dim,
        features=features(dim),
        lengths=f"{rows[0]['length']:.0f}-{rows[-1]['length']:.0f}",
        forms_cross_at=crossing(rows),
        auto_over_best=ratios[worst],
        at_length=int(rows[worst]["length"]),
        direct_us=rows[worst]["direct"] * 1e6,
        efficient_us=rows[worst]["efficient"] * 1e6,
    )
    return ratios[worst]


def crossing(rows: list[dict[str, float]]) -> int:
    """Return the first length measured at which the efficient form is the quicker one, 0 when there is none."""
    return next((int(row["length"]) for row in rows if row["efficient"] < row["direct"]), 0)


def features(dim: int) -> int:
    """Return how many features a key has."""
    return 1 + dim + dim * (dim + 1) // 2


def measure(dim: int, repetitions: int) -> list[dict[str, float]]:
    """Time both forms and the chosen one at lengths around the crossover; times in seconds."""
    shapes = [f"{dim}:{max(1, round(features(dim) * multiple))}" for multiple in MULTIPLES]
    done = subprocess.run([str(PROGRAM), str(repetitions), "1", *shapes], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
