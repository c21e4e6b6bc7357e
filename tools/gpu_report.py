"""Run what an hour with a GPU is for, and write what was seen to docs/gpu-report.md.

`make gpu-test` runs every step of benchmarks/gpu/plan.py; steps can also be named, so that each call fits ten minutes.
What a step saw is kept in the folder of results, JSON for the most part, and a step goes on where it ended. Without a
GPU nothing is run, and the exit code is 3.

    python tools/gpu_report.py                                every step
    python tools/gpu_report.py numbers memcheck --output DIR  these, with results in DIR
    python tools/gpu_report.py --report --output DIR          nothing is run: the report of what is in DIR

The report is made of docs/gpu-report.json, which `--report` makes of the results; without it, the page says what is
going to be answered.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from check_all import ROOT, SKIPPED, commit

sys.path.append(str(ROOT))
from benchmarks.gpu.plan import LIBRARY, OUTPUT, Step, kernels, named
from gpu_page import page, results

from hsm_export.building.cuda_driver import Driver, probe

PAGE = ROOT / "docs" / "gpu-report.md"
DATA = PAGE.with_suffix(".json")
NO_GPU = 3
PACKAGES = ("tensorrt-cu13", "tensorrt-rtx-cu13", "onnxruntime-gpu", "onnxruntime", "torch", "triton", "numpy")


class OtherKernelsError(Exception):
    """A folder holds the results of other kernels."""


def versions() -> list[str]:
    """Return the versions of the packages that results depend on."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def opened(output: Path, driver: Driver) -> dict[str, Any]:
    """Return what a folder of results says about its run; a new run where there is none.

    Raises:
        OtherKernelsError: its kernels are not those of this tree.
    """
    path = output / "run.json"
    if path.exists():
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if run["kernels"] != kernels():
            raise OtherKernelsError(f"the results in {output} are of other kernels; take another folder")
        return run
    return {
        "kernels": kernels(),
        "commit": commit(),
        "gpu": list(driver.devices),
        "driver": driver.version,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
        "steps": {},
    }


def run_step(step: Step, library: Path, output: Path, root: Path = ROOT) -> dict[str, Any]:
    """Run one step and return its outcome: "passed", "skipped: …" or "FAILED …"."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{os.environ['PATH']}{os.pathsep}/usr/local/cuda/bin"
    if step.tool and shutil.which(step.tool, path=environment["PATH"]) is None:
        return {"outcome": f"skipped: {step.tool} is not installed", "seconds": 0}
    start = time.monotonic()
    paths = [str(root / folder) for folder in ("plugins", "exporter", "models", ".")]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (output / f"{step.name}.log").open("w", encoding="utf-8") as log:
        try:
            command = step.filled(library.resolve(), output.resolve())
            code = subprocess.run(
                command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=60 * step.minutes
            ).returncode
        except subprocess.TimeoutExpired:
            return {"outcome": f"FAILED: not done after {step.minutes:g} minutes", "seconds": 60 * step.minutes}
    said = (output / f"{step.name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = said[-1] if said else ""
    outcome = "passed" if code == 0 else f"skipped: {last}" if code == SKIPPED else f"FAILED ({code}): {last}"
    return {"outcome": outcome, "seconds": round(time.monotonic() - start)}


def main(arguments: list[str]) -> int:
    """Run the steps and write the report; return 0 only when none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help="all when none is named")
    parser.add_argument("--output", type=Path, default=ROOT / OUTPUT, help="folder of results")
    parser.add_argument("--library", type=Path, default=ROOT / LIBRARY, help="libhsm_kernels_cuda.so")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report")
    given = parser.parse_args(arguments)
    driver = probe()
    failed = False
    try:
        if not given.report:
            if not driver.devices:
                print(f"make gpu-test needs an NVIDIA GPU: {driver.reason}", file=sys.stderr)
                return NO_GPU
            failed = run_all(named(given.steps), driver, given.library, given.output)
        elif (given.output / "run.json").exists():
            opened(given.output, driver)
    except (ValueError, OtherKernelsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if (given.output / "run.json").exists():
        DATA.write_text(json.dumps(results(given.output), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else None), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)
    return int(failed)


def run_all(steps: list[Step], driver: Driver, library: Path, output: Path) -> bool:
    """Run steps, record each as soon as it ended, and return whether one failed."""
    output.mkdir(parents=True, exist_ok=True)
    run = opened(output, driver)
    for step in steps:
        run["steps"][step.name] = run_step(step, library, output)
        (output / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
        print(f"{step.name}: {run['steps'][step.name]['outcome']}", file=sys.stderr)
    return any(run["steps"][step.name]["outcome"].startswith("FAILED") for step in steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
