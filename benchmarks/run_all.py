"""Run every benchmark with one thread and with one a core, and bring docs/performance.md up to date: `make bench`.

Some ten minutes on two cores. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import write_tables

FOLDER = Path(__file__).resolve().parent
# What is measured with every number of threads, and what with one number only. The models take longest and come last.
KERNELS = (
    "shift_mix_vs_memcpy",
    "taylor_shift_vs_attention",
    "taylor_shift_vs_sgemm",
    "expert_matmul_vs_sgemm",
    "expert_mlp",
    "mixer_kernels",
    "attention",
    "decayed_linear_attention",
    "causal_taylor_shift",
)
MODELS = ("torch_kernels", "whole_models")
# An hour and 10 GB: only when it is named.
LARGE = ("real_sizes",)
ONE_THREAD = ("taylor_auto_choice", "decode_bytes", "decode_context", "runtime_overhead", "serving", "cold_start")
ALL_THREADS = ("taylor_shift_memory",)


def main() -> int:
    """Run the scripts one after the other; returns 1 when one of them failed."""
    cores = len(os.sched_getaffinity(0))
    usual = (*KERNELS, *ALL_THREADS, *ONE_THREAD, *MODELS)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the scripts; writes no tables")
    parser.add_argument(
        "--threads", type=_counts, default=sorted({1, cores}), help="comma-separated; default: 1 and one a core"
    )
    parser.add_argument(
        "names", nargs="*", help=f"some of {', '.join((*usual, *LARGE))}; all but the last when none is named"
    )
    options = parser.parse_args()
    each, most = options.threads, max(options.threads)
    runs = [(name, threads) for threads in each for name in KERNELS]
    runs += [(name, most) for name in ALL_THREADS] + [(name, 1) for name in ONE_THREAD]
    runs += [(name, threads) for threads in each for name in (*MODELS, *LARGE)]
    failed = []
    for name, threads in runs:
        if name in (options.names or usual):
            if not succeeds(name, threads, options.quick):
                failed.append((name, threads))
            elif not options.quick:
                write_tables.main()
    for name, threads in failed:
        print(f"error: {name} failed with {threads} threads", file=sys.stderr)
    return 1 if failed else 0


def _counts(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


def succeeds(name: str, threads: int, quick: bool) -> bool:
    """Run one script; returns whether it succeeded."""
    print(f"== {name}, {threads} threads", flush=True)
    command = [sys.executable, str(FOLDER / f"{name}.py"), *(["--quick"] if quick else [])]
    start = time.monotonic()
    done = subprocess.run(command, env={**os.environ, "HSM_THREADS": str(threads)})
    print(f"   {time.monotonic() - start:.0f} s", file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
