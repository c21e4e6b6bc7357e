"""The C++ runtime against ONNX Runtime called directly from C++: the same file, options, threads and process, in turns.

Times are the thread's CPU time. Two sessions of one model differ a little, whoever made them and by which is made
first, so many processes are started, in which each is first as often as the others, and the contestant "bare again"
shows what is left: it is a second session without our library.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import common

from hsm_export.native import custom_ops_path
from hsm_export.runtimes.cpp import onnxruntime_library

BUILD = Path(os.environ.get("HSM_BUILD", common.ROOT / "build" / "native"))
PROGRAM = BUILD / "tests" / "hsm_bench_runtime_overhead"
MODEL = "hsm-lm"
LENGTH = 512
# What may be lost at one token, where a step is shortest. At 512 tokens nothing may be seen.
STEP_BOUND = 1.02
# Half the width of a 95 % confidence interval, in standard deviations.
_WIDTH = 1.96


def main() -> None:
    """Bundle the model, start the processes, and judge the ratios."""
    quick = common.arguments(__doc__ or "")
    if not PROGRAM.is_file():
        sys.exit(f"error: there is no {PROGRAM}; `make cpp-test` builds it")
    report = common.Report(Path(__file__).stem, quick)
    length = 16 if quick else LENGTH
    bundle = common.bundle(MODEL)
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    # Steps are short; each contestant's session is made first in as many processes.
    for tokens, processes, pairs in ((0, 2, 3), (length, 2, 3)) if quick else ((0, 40, 301), (length, 8, 301)):
        for first in range(processes):
            for item in measure(bundle, pairs, tokens, first):
                key = item["what"], item["contestant"]
                ratios[key].append(item["ratio"])
                seconds[key].append(item["seconds"])
    for (what, contestant), values in ratios.items():
        if contestant == "bare":
            continue
        low, high = interval(values)
        report.row(
            what=what, contestant=contestant, us=statistics.median(seconds[what, contestant]) * 1e6,
            bare_us=statistics.median(seconds[what, "bare"]) * 1e6,
            median_ratio=statistics.median(values), low=low, high=high, processes=len(values),
        )  # fmt: skip
    judge(report, ratios, length)
    report.finish()


def measure(bundle: Path, pairs: int, length: int, first: int) -> list[dict[str, Any]]:
    """Run one process; return each contestant's median time, and its median ratio to "bare" over pairs of turns.

    It runs `length` tokens at once, or steps of the decoder when that is 0; contestant `first` makes its session first.
    """
    command = [str(PROGRAM), str(bundle), str(custom_ops_path()), *map(str, (pairs, length, first))]
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(onnxruntime_library())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:  # 5: the numbers are not the same
        print(done.stderr, file=sys.stderr, end="")
        sys.exit(done.returncode)
    items = [json.loads(line) for line in done.stdout.splitlines()]
    bare = {item["what"]: item["seconds"] for item in items if item["contestant"] == "bare"}
    return [
        {
            **item,
            "seconds": statistics.median(item["seconds"]),
            "ratio": statistics.median(a / b for a, b in zip(item["seconds"], bare[item["what"]], strict=True)),
        }
        for item in items
    ]


def interval(values: list[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median, from order statistics: it assumes no distribution."""
    ordered, half = sorted(values), _WIDTH * math.sqrt(len(values)) / 2
    low = max(0, math.floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half) - 1)
    return ordered[low], ordered[max(high, low)]


def judge(report: common.Report, ratios: dict[tuple[str, str], list[float]], length: int) -> None:
    """Claim the bounds: of a step, and that a whole sequence takes no longer than two bare sessions differ."""
    # Their tensors are bound once, those of Session::run in each call.
    for contestant in ("BoundRun::run", "Generator::step"):
        ratio = statistics.median(ratios["decode step", contestant])
        report.at_most(f"{MODEL}, one token: {contestant} over bare ONNX Runtime", ratio, STEP_BOUND)
    ours, control = (interval(ratios["whole sequence", name]) for name in ("Session::run", "bare again"))
    report.exactly(
        f"{MODEL}, {length} tokens: Session::run is slower than bare ONNX Runtime beyond what two sessions differ by",
        float(ours[0] > max(control[1], 1.0)),
        0,
    )


if __name__ == "__main__":
    main()
