"""Run every test, the slow ones and the native builds included, and write what was seen to docs/verification.md.

A machine that cannot spare the time in one go runs `pytest --junitxml=FILE` in parts, and then
`python tools/check_all.py FILE…`, which runs the native builds and reports on those parts.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "verification.md"
# Presets of plugins/CMakePresets.json, as tools/cpp_test.sh takes them.
NATIVE = (("release",), ("asan",), ("tsan",), ("aarch64",), ("fuzz", "60"))
SKIPPED = 3  # cpp_test.sh's exit code for tools that are not installed
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "polygraphy", "tensorrt-rtx-cu13", "numpy")


@dataclass(frozen=True)
class Step:
    """One native preset: built and run, or why not."""

    name: str
    outcome: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it ran and did not pass."""
        return self.outcome.startswith("FAILED")


def run_native(arguments: tuple[str, ...]) -> Step:
    """Build and test one preset."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start = time.monotonic()
    done = subprocess.run(
        ["bash", "tools/cpp_test.sh", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - start
    if done.returncode == SKIPPED:
        outcome = done.stderr.strip()
    elif done.returncode == 0:
        outcome = "passed" + fuzzed(done.stderr)
    else:
        outcome = f"FAILED ({done.returncode})"
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    step = Step(" ".join(arguments), outcome, seconds)
    print(f"C++ {step.name}: {step.outcome}, {seconds:.0f} s", file=sys.stderr)
    return step


def fuzzed(log: str) -> str:
    """Return libFuzzer's count of executions as a remark, or nothing for other steps."""
    key = "stat::number_of_executed_units:"
    return "".join(f", {int(line.removeprefix(key)):,} inputs" for line in log.splitlines() if line.startswith(key))


def run_tests(junit: Path) -> int:
    """Run the whole suite with one thread a process and return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-n", os.environ.get("JOBS", "2"), f"--junitxml={junit}"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def commit() -> str:
    """Return the commit under test, marked when the tree has changes beside the report itself."""
    if shutil.which("git") is None:
        return "unknown (git is not installed)"
    name = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    dirty = [line for line in changed.splitlines() if not line.endswith(str(REPORT.relative_to(ROOT)))]
    return (name.stdout.strip() or "unknown") + (" with uncommitted changes" if dirty else "")


def report(steps: list[Step], junit: list[Path]) -> str:
    """Turn the native steps and pytest's JUnit files into the Markdown report."""
    groups: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    measured: list[tuple[str, str, str]] = []
    skipped: dict[str, int] = defaultdict(int)
    for case in (case for file in junit for case in ElementTree.parse(file).getroot().iter("testcase")):
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
        "| C++ preset | outcome | seconds |",
        "| --- | --- | ---: |",
        *(f"| {step.name} | {step.outcome} | {step.seconds:.0f} |" for step in steps),
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


def failures(junit: list[Path]) -> int:
    """Return how many tests failed."""
    roots = [ElementTree.parse(file).getroot() for file in junit]
    return sum(int(suite.get(kind, 0)) for root in roots for suite in root for kind in ("failures", "errors"))


def main(parts: list[Path]) -> int:
    """Run what is not there as `parts` yet, write the report, and return 0 only when everything passed."""
    steps = [run_native(arguments) for arguments in NATIVE]
    if not parts:
        whole = ROOT / "build" / "check-all.xml"
        whole.parent.mkdir(exist_ok=True)
        whole.unlink(missing_ok=True)
        code = run_tests(whole)
        if not whole.exists():
            return code
        parts = [whole]
    REPORT.write_text(report(steps, parts))
    print(f"wrote {REPORT.relative_to(ROOT)}", file=sys.stderr)
    return int(failures(parts) > 0 or any(step.failed for step in steps))


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
