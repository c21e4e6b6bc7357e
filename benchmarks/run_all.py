"""Run every benchmark and bring the tables of docs/performance.md up to date: `make bench`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import write_tables

FOLDER = Path(__file__).resolve().parent
SCRIPTS = (
    "taylor_auto_choice",
    "taylor_shift_vs_attention",
    "taylor_shift_vs_sgemm",
    "taylor_shift_memory",
    "shift_mix_vs_memcpy",
    "expert_matmul_vs_sgemm",
    "whole_models",
)


def main() -> int:
    """Run the scripts one after the other; returns 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the scripts; writes no tables")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(SCRIPTS)}; all when none is named")
    options = parser.parse_args()
    failed = [name for name in options.names or SCRIPTS if not run(name, options.quick)]
    if not options.quick:
        write_tables.main()
    for name in failed:
        print(f"error: {name} failed", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, quick: bool) -> bool:
    """Run one script; returns whether it succeeded."""
    print(f"== {name}", flush=True)
    command = [sys.executable, str(FOLDER / f"{name}.py"), *(["--quick"] if quick else [])]
    return subprocess.run(command).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
