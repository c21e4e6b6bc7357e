"""Run every test that needs a GPU, and write what was seen to build/gpu-report.md.

`make gpu-test` is meant for the first person with an NVIDIA GPU: the kernels' C++ tests compiled for it, an engine of
every zoo model in every precision, their numbers and their times. Send the report along with an issue. Exits with 3
and the reason where there is no GPU; `python tools/gpu_report.py FILE` reports on a JUnit file that is there already.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from check_all import ROOT, commit

from hsm_export.building.cuda_driver import Driver, probe

REPORT = ROOT / "build" / "gpu-report.md"
RESULTS = ROOT / "build" / "gpu-report.xml"
NO_GPU = 3
PACKAGES = (
    "hsm-export",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "onnxruntime-gpu",
    "onnxruntime",
    "torch",
    "polygraphy",
    "numpy",
)
_OUTCOMES = ("passed", "failed", "skipped")


def run_tests(results: Path) -> int:
    """Run the tests that need a GPU and return pytest's exit code."""
    results.parent.mkdir(exist_ok=True)
    results.unlink(missing_ok=True)
    # These files alone: one package that the rest of the tests need, and this machine lacks, must not stop all.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={results}", "tests/gpu"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def report(results: Path, driver: Driver) -> str:
    """Turn pytest's JUnit file into the Markdown report.

    Args:
        results: the JUnit file.
        driver: the driver and the GPUs that it sees.
    """
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    lines = [
        "# What was seen on a GPU",
        "",
        f"- GPU: {', '.join(driver.devices) or driver.reason}",
        f"- driver: CUDA {driver.version}",
        f"- commit: {commit()}",
        f"- date: {datetime.date.today().isoformat()}",
        f"- machine: {os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        f"- versions: {', '.join(_versions())}",
        "",
        *_summary(cases),
        *_measured(cases),
        *_failures(cases),
        *_skips(cases),
    ]
    return "\n".join(lines) + "\n"


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _outcome(case: ElementTree.Element) -> str:
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def _summary(cases: list[ElementTree.Element]) -> list[str]:
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        groups[f"{case.get('classname')}.{case.get('name', '').partition('[')[0]}"][_outcome(case)] += 1
    lines = ["| test | passed | failed | skipped |", "| --- | ---: | ---: | ---: |"]
    for name, counts in sorted(groups.items()):
        lines.append(f"| {name} | {' | '.join(str(counts[outcome]) for outcome in _OUTCOMES)} |")
    return lines


def _measured(cases: list[ElementTree.Element]) -> list[str]:
    rows = [
        f"| `{case.get('name')}` | {item.get('name')} | {item.get('value')} |"
        for case in cases
        for item in case.iter("property")
    ]
    return ["", "## Measured", "", "| test | what | value |", "| --- | --- | ---: |", *sorted(rows)] if rows else []


def _failures(cases: list[ElementTree.Element]) -> list[str]:
    lines: list[str] = []
    for case in (case for case in cases if _outcome(case) == "failed"):
        what = next(child for child in case if child.tag in ("failure", "error"))
        lines += [
            f"### {case.get('name')}",
            "",
            "```text",
            (what.text or what.get("message", "")).strip()[-3000:],
            "```",
            "",
        ]
    return ["", "## Failures", "", *lines] if lines else []


def _skips(cases: list[ElementTree.Element]) -> list[str]:
    reasons = Counter(skip.get("message", "") for case in cases for skip in case.iter("skipped"))
    return ["", "## Skipped", "", *(f"- {n} x {reason}" for reason, n in sorted(reasons.items()))] if reasons else []


def main(arguments: list[str]) -> int:
    """Run the tests unless their results are given, write the report, and return the exit code."""
    driver = probe()
    if not arguments and not driver.devices:
        print(f"make gpu-test needs an NVIDIA GPU: {driver.reason}", file=sys.stderr)
        return NO_GPU
    results = Path(arguments[0]) if arguments else RESULTS
    code = 0 if arguments else run_tests(results)
    if not results.exists():
        return code or 1
    text = report(results, driver)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text, encoding="utf-8")
    print(f"wrote {REPORT.relative_to(ROOT)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
