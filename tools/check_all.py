"""Run every test, the slow ones included, and write what was seen to docs/verification.md."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "verification.md"
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "polygraphy", "tensorrt-rtx-cu13", "numpy")


def run_tests(junit: Path) -> int:
    """Run the whole suite with one thread a process and return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-n", os.environ.get("JOBS", "2"), f"--junitxml={junit}"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def commit() -> str:
    """Return the commit under test, marked when the tree has changes beside the report itself."""
    name = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    dirty = [line for line in changed.splitlines() if not line.endswith(str(REPORT.relative_to(ROOT)))]
    return (name.stdout.strip() or "unknown") + (" with uncommitted changes" if dirty else "")


def report(junit: Path) -> str:
    """Turn pytest's JUnit file into the Markdown report."""
    groups: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    measured: list[tuple[str, str, str]] = []
    skipped: dict[str, int] = defaultdict(int)
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        group = groups[".".join(case.get("classname", "").split(".")[:3])]
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        group[outcome] += 1
        group["seconds"] += float(case.get("time", 0))
        measured += [(case.get("name", ""), p.get("name", ""), p.get("value", "")) for p in case.iter("property")]
        for skip in case.iter("skipped"):
            skipped[skip.get("message", "")] += 1
    lines = [
        "# What was verified",
        "",
        "Written by `make check-all`; do not edit. No GPU was there: **engines were built, not yet run on hardware**.",
        "",
        f"- commit: {commit()}",
        f"- date: {datetime.date.today().isoformat()}",
        f"- machine: {os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        f"- Python {platform.python_version()}",
        f"- versions: {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
        "",
        "| tests | passed | failed | skipped | seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, group in sorted(groups.items()):
        failed = group["failure"] + group["error"]
        lines.append(
            f"| {name} | {group['passed']:.0f} | {failed:.0f} | {group['skipped']:.0f} | {group['seconds']:.0f} |"
        )
    if measured:
        lines += ["", "## Measured", "", "| test | what | value |", "| --- | --- | ---: |"]
        lines += [f"| `{test}` | {what} | {value} |" for test, what, value in sorted(measured)]
    if skipped:
        lines += ["", "## Skipped", ""] + [f"- {count} x {reason}" for reason, count in sorted(skipped.items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, write the report, and return pytest's exit code."""
    junit = ROOT / "build" / "check-all.xml"
    junit.parent.mkdir(exist_ok=True)
    junit.unlink(missing_ok=True)
    code = run_tests(junit)
    if junit.exists():
        REPORT.write_text(report(junit))
        print(f"wrote {REPORT.relative_to(ROOT)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
