"""Many requests at once: rows that step together against one request after the other, on one thread.

Each number of rows is a process of its own, so that its memory is its own; they take turns, so that what else runs here
falls on all of them. Throughput is compared in CPU time, which other programs do not take.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

from hsm_export.native import custom_ops_path
from hsm_export.runtimes.cpp import onnxruntime_library

BUILD = Path(os.environ.get("HSM_BUILD", common.ROOT / "build" / "native"))
PROGRAM = BUILD / "tests" / "hsm_bench_serving"
# Tokens per CPU second at 16 rows over those at one row.
BOUNDS = {"hsm-lm": 4.0, "taylor-shift-lm": 4.0, "switch-head-lm": 2.0}
ROWS = (1, 4, 16)
REQUESTS, TOKENS = 48, 64
# With prompts of one token, what is timed is decoding; prompts are read at the same cost in any company.
PROMPTS = (1, 32)
TURNS = 3


def main() -> None:
    """Run the turns and judge the ratios."""
    quick = common.arguments(__doc__ or "")
    if not PROGRAM.is_file():
        sys.exit(f"error: there is no {PROGRAM}; `make cpp-test` builds it")
    report = common.Report(Path(__file__).stem, quick)
    requests, tokens = (4, 4) if quick else (REQUESTS, TOKENS)
    for model, bound in BOUNDS.items():
        bundle = common.bundle(model)
        for prompt in PROMPTS:
            size = (requests, prompt, tokens)
            turns = [{rows: serve(bundle, rows, *size) for rows in ROWS} for _ in range(1 if quick else TURNS)]
            for rows in ROWS:
                report.row(model=model, prompt=prompt, rows=rows, **summary(turns, rows))
            if prompt == 1:
                gain = statistics.median(turn[1]["cpu_seconds"] / turn[16]["cpu_seconds"] for turn in turns)
                report.at_least(f"{model}: tokens a CPU second of decoding, 16 rows over one", gain, bound)
    report.finish()


def serve(bundle: Path, rows: int, *size: int) -> dict[str, Any]:
    """Run one process; return what it printed."""
    command = [str(PROGRAM), str(bundle), str(custom_ops_path()), str(rows), *map(str, size)]
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(onnxruntime_library())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def summary(turns: list[dict[int, dict[str, Any]]], rows: int) -> dict[str, float]:
    """Return the medians of one number of rows, and of its ratios to one row in the same turn."""

    def median(name: str) -> float:
        return statistics.median(turn[rows][name] for turn in turns)

    def ratio(name: str) -> float:
        return statistics.median(turn[rows][name] / turn[1][name] for turn in turns)

    return {
        "tokens_per_cpu_second": turns[0][rows]["tokens"] / median("cpu_seconds"),
        "throughput_ratio": 1 / ratio("cpu_seconds"),
        "first_token_ms": median("first_token_median") * 1e3,
        "first_token_ratio": ratio("first_token_median"),
        "peak_mb": median("peak_kilobytes") / 1e3,
        "states_mb": turns[0][rows]["state_bytes"] / 1e6,
    }


if __name__ == "__main__":
    main()
