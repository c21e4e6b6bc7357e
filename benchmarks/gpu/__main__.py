"""What an hour with a GPU is for, in steps that each fit ten minutes and go on where they ended.

    PYTHONPATH=plugins:. python3 -m benchmarks.gpu numbers --library libhsm_kernels_cuda.so --output numbers.json
    PYTHONPATH=plugins:. python3 -m benchmarks.gpu times   --library libhsm_kernels_cuda.so --output times.json
    compute-sanitizer --tool memcheck python3 -m benchmarks.gpu numbers --library … --output memcheck.json --only odd

It needs PyTorch and the library, and neither a network nor other packages. `--rehearse` runs the same steps on the CPU,
with the library that `make cpp-test` compiles for the host shim; its times mean nothing. Exits with 1 where a number is
wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import numbers, times
from .calls import Target

STEPS = {"numbers": numbers.rows, "times": times.rows}


def main(arguments: list[str]) -> int:
    """Run one step and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--library", type=Path, required=True, help="libhsm_kernels_cuda.so")
    parser.add_argument("--output", type=Path, required=True, help="JSON; what it holds already is not measured again")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to end; the next call goes on")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, under the host shim")
    given = parser.parse_args(arguments)
    if not given.rehearse and not torch.cuda.is_available():
        print("this PyTorch sees no GPU; --rehearse runs without one", file=sys.stderr)
        return 3
    target = Target.open(given.library, "cpu" if given.rehearse else "cuda")
    return run(target, given.step, given.output, given.minutes, given.only)


def run(target: Target, step: str, output: Path, minutes: float, only: str) -> int:
    """Measure what the output does not hold yet, write it after each row, and return the exit code."""
    known = json.loads(output.read_text()) if output.exists() else {"device": device(target), "rows": {}}
    end = time.monotonic() + 60 * minutes
    left = 0
    for name, measure in STEPS[step](target):
        if only not in name or name in known["rows"]:
            continue
        if time.monotonic() > end:
            left += 1
            continue
        known["rows"][name] = measure()
        written = output.with_suffix(".part")
        written.write_text(json.dumps(known, indent=1))
        written.replace(output)
    found = [row for rows in known["rows"].values() for row in rows]
    wrong = [row for row in found if row.get("verdict") not in (None, "same", "refused")]
    for row in wrong:
        print(json.dumps(row), file=sys.stderr)
    print(f"{step}: {len(found)} rows, {len(wrong)} wrong, {left} calls left for another run; {output}")
    return 1 if wrong else 0


def device(target: Target) -> dict[str, Any]:
    """Return what is known of the device and of PyTorch."""
    if target.rehearses:
        return {"name": "host shim", "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "sm": 10 * properties.major + properties.minor,
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
