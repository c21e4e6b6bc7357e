"""Run every check there is, the slow ones included, and write what was seen to docs/verification.md.

The checks are the steps of a table below, each in a process of its own with a limit on its time: one that fails,
crashes or hangs is recorded, and the next one runs. What each one saw is kept in build/check-all; the report is made of
that. So a machine that cannot spare the time in one go runs some steps now and the others later.

Examples:
    python tools/check_all.py                       every step, one after the other (an hour and more on two cores)
    python tools/check_all.py --list                the names of the steps
    python tools/check_all.py "C++ asan" "tests of models"
    python tools/check_all.py --resume              the steps that are not recorded for this commit
    python tools/check_all.py --short               studies on a tenth of their cases
    python tools/check_all.py --report              no step: only write the report
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "verification.md"
RESULTS = ROOT / "build" / "check-all"
LIMIT = 3 * 60 * 60  # seconds of a step
SKIPPED = 3  # exit code of steps whose tools are not installed; the reason is the last line of stderr
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "polygraphy", "tensorrt-rtx-cu13", "numpy")
# Tests are run by folder, so that each step is bearable; the last step runs what the others leave over.
TEST_FOLDERS = {
    "tests of models": ("tests/models",),
    "tests of the operator set": ("tests/operators",),
    "tests of runtimes": ("tests/exporter/runtimes",),
    "tests of exporting": ("tests/exporter/exporting",),
    "tests of validation": ("tests/exporter/validation",),
    "tests of building": ("tests/exporter/building",),
    "tests of decoding": ("tests/exporter/decoding",),
    "tests of benchmarks": ("tests/benchmarks", "tests/exporter/benchmarking"),
    "tests of native parts": ("tests/plugins", "tests/tools"),
}
# Studies: the module in tests/studies, how many cases it has in full, and whether it takes the file of its records.
STUDIES = {
    "thresholds of diff on 200 models": ("diff_thresholds", 200, True),
    "500 damaged files through every command": ("damaged_files", 500, False),
    "healthy modules of many shapes": ("random_modules", 200, True),
    "generated files with operators of every kind": ("generated_files", 100, True),
    "node cases of onnx": ("backend_nodes", 2000, True),
    "files out of public packages": ("public_files", 0, True),
    "files of scikit-learn's converters": ("converted_files", 0, True),
    "ten faults in Polygraphy and here": ("polygraphy_table", 10, True),
}


@dataclass(frozen=True)
class Step:
    """A check: a command that succeeds, or ends with SKIPPED and says why.

    Attributes:
        name: what reports call it.
        command: program and arguments, run in the root of the repository.
        remark: finds in its output what else the report should say.
        junit: it is pytest and writes its outcomes to `junit_file(name)`.
        limit: seconds after which it is ended, with all that it started.
    """

    name: str
    command: Sequence[str]
    remark: Callable[[str], str] = lambda output: ""
    junit: bool = False
    limit: float = LIMIT


@dataclass(frozen=True)
class Outcome:
    """What a step did: "passed", "FAILED (exit code)" or why it was skipped, with a remark; and where and when."""

    name: str
    outcome: str
    seconds: float
    commit: str
    date: str

    @property
    def failed(self) -> bool:
        """Whether it ran and did not pass."""
        return self.outcome.startswith("FAILED")


def fuzzed(output: str) -> str:
    """Return libFuzzer's counts of executions, one of each target, as a remark."""
    counts = re.findall(r"stat::number_of_executed_units: *(\d+)", output)
    return "".join(f", {int(count):,} inputs" for count in counts)


def studied(output: str) -> str:
    """Return what the study of thresholds counted as a remark."""
    counts = dict(re.findall(r'"(\w+)": ([\d.]+)', output))
    return ", {models} models, {false_alarms} false alarms, {located} of {twins} faults located".format(**counts)


def counted(output: str) -> str:
    """Return the numbers of a study's last line, a JSON object, as a remark."""
    try:
        counts = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return ""
    return "".join(f", {name} {value}" for name, value in counts.items() if isinstance(value, int))


def versions_seen(output: str) -> str:
    """Return which versions were tested as a remark."""
    return "".join(
        f"; {line}" for line in re.findall(r"^(?:oldest|between|newest): .*|^torch .*", output, re.MULTILINE)
    )


def study(name: str, short: bool) -> Step:
    """Return the step of a study: in full, or a tenth of it."""
    module, count, recorded = STUDIES[name]
    command = [sys.executable, "-W", "ignore", "-m", f"tests.studies.{module}"]
    if count:
        command += ["--count", str(count // 10 if short else count)]
    if recorded:
        # Of this commit: a study that was ended goes on where it was.
        command += ["--out", str(RESULTS / f"{module}-{commit().split()[0]}.jsonl")]
    return Step(name, command, studied if module == "diff_thresholds" else counted)


def steps(short: bool = False) -> list[Step]:
    """Return every step, in the order in which they run. A new check is one line here.

    Args:
        short: studies take a tenth of their cases.
    """
    native = [Step(f"C++ {preset}", ("bash", "tools/cpp_test.sh", preset)) for preset in ("release", "asan", "tsan")]
    return [
        *native,
        Step("C++ aarch64 under qemu", ("bash", "tools/cpp_test.sh", "aarch64")),
        Step("C++ fuzzing for a minute", ("bash", "tools/cpp_test.sh", "fuzz", "60"), fuzzed),
        Step("C++ headers' documentation", ("bash", "tools/headers_check.sh")),
        Step("C++ and CUDA on a GPU", ("bash", "tools/cpp_test.sh", "gpu")),
        Step("backward passes in Triton, interpreted and compiled", ("make", "triton-test", "MARKS=slow or not slow")),
        Step("CUDA kernels' registers, spills and instructions", ("bash", "tools/cuda_report.sh")),
        *(tests(name, folders) for name, folders in TEST_FOLDERS.items()),
        *(study(name, short) for name in STUDIES),
        Step("the zoo in runtimes of others", (sys.executable, "tools/runtime_matrix.py")),
        Step("oldest and newest versions", (sys.executable, "tools/version_ends.py"), versions_seen),
        tests("all other tests", ["tests", *(f"--ignore={f}" for fs in TEST_FOLDERS.values() for f in fs)]),
    ]


def tests(name: str, arguments: Sequence[str]) -> Step:
    """Return the step that runs tests, the slow ones too, in $JOBS processes (2 by default)."""
    jobs = ("-n", os.environ.get("JOBS", "2"), "--dist", "worksteal")
    command = (sys.executable, "-m", "pytest", "-q", *jobs, f"--junitxml={junit_file(name)}", *arguments)
    return Step(name, command, junit=True)


def junit_file(name: str) -> Path:
    """Return where the test outcomes of a step are."""
    return RESULTS / f"{_slug(name)}.xml"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def run(step: Step) -> Outcome:
    """Run a step, print how it went, and keep that."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    junit_file(step.name).unlink(missing_ok=True)
    # PATH: this Python's environment brings cmake and ninja where the system has none.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    print(f"{step.name} …", file=sys.stderr, flush=True)
    start = time.monotonic()
    with (RESULTS / f"{_slug(step.name)}.log").open("w+", encoding="utf-8", errors="replace") as log:
        code = _ended(step, environment, log)
        log.seek(0)
        output = log.read()
    outcome = Outcome(step.name, _judged(step, code, output), time.monotonic() - start, commit(), _today())
    (RESULTS / f"{_slug(step.name)}.json").write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    if outcome.failed:
        print(*output.splitlines()[-60:], sep="\n", file=sys.stderr)
    print(f"{step.name}: {outcome.outcome}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
    return outcome


def _ended(step: Step, environment: Mapping[str, str], log: IO[str]) -> int | None:
    """Run a step's command and return its exit code, None when it was ended for its time with all that it started."""
    try:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        log.write(f"{step.command[0]} cannot be started: {error}\n")
        return 127
    try:
        return process.wait(step.limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _judged(step: Step, code: int | None, output: str) -> str:
    if code is None:
        return f"FAILED (ended after {step.limit:.0f} s)"
    if code == SKIPPED and not step.junit:
        return output.strip().splitlines()[-1] if output.strip() else "skipped"
    if code == 0:
        return "passed" + step.remark(output)
    # What a study counted, it also says when it fails.
    return f"FAILED ({code})" + (step.remark(output) if step.remark is counted else "")


def _today() -> str:
    return datetime.date.today().isoformat()


def recorded(known: Sequence[Step]) -> list[Outcome]:
    """Return what is known of the steps, from this run and earlier ones; "not run" for the rest."""
    outcomes = []
    for step in known:
        file = RESULTS / f"{_slug(step.name)}.json"
        outcomes.append(
            Outcome(**json.loads(file.read_text())) if file.exists() else Outcome(step.name, "not run", 0.0, "", "")
        )
    return outcomes


def commit() -> str:
    """Return the commit under test, marked when the tree has changes beside the report itself."""
    if shutil.which("git") is None:
        return "unknown (git is not installed)"
    name = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    dirty = [line for line in changed.splitlines() if not line.endswith(str(REPORT.relative_to(ROOT)))]
    return (name.stdout.strip() or "unknown") + (" with uncommitted changes" if dirty else "")


def report(outcomes: Sequence[Outcome], junit: Sequence[Path]) -> str:
    """Turn the outcomes of the steps and pytest's JUnit files into the Markdown report."""
    lines = [
        "# What was verified",
        "",
        "Written by `make check-all`; do not edit. No GPU was there: **engines were built, not yet run on hardware**.",
        "",
        f"- date: {_today()}",
        f"- machine: {os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        f"- Python {platform.python_version()}",
        f"- versions: {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
        "",
        "| step | outcome | seconds | commit |",
        "| --- | --- | ---: | --- |",
        *(f"| {item.name} | {item.outcome} | {item.seconds:.0f} | {item.commit} |" for item in outcomes),
        "",
        *_test_tables(junit),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _test_tables(junit: Sequence[Path]) -> list[str]:
    """Return tests by module group, what they measured, and what was skipped for which reason."""
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
    lines = ["| tests | passed | failed | skipped | seconds |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, group in sorted(groups.items()):
        counts = (group["passed"], group["failure"] + group["error"], group["skipped"], group["seconds"])
        lines.append(f"| {name} | {' | '.join(f'{count:.0f}' for count in counts)} |")
    if measured:
        lines += ["", "## Measured", "", "| test | what | value |", "| --- | --- | ---: |"]
        lines += [f"| `{test}` | {what} | {value} |" for test, what, value in sorted(measured)]
    if skipped:
        lines += ["", "## Skipped", ""] + [f"- {count} x {reason}" for reason, count in sorted(skipped.items())]
    return lines


def main() -> int:
    """Run the steps that were asked for, write the report after each, and return 0 only when none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the steps")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report of what is recorded")
    parser.add_argument("--resume", action="store_true", help="run what is not recorded for this commit")
    parser.add_argument("--short", action="store_true", help="studies take a tenth of their cases")
    parser.add_argument("names", nargs="*", help="steps to run; all when none is named")
    options = parser.parse_args()
    known = steps(options.short)
    unknown = set(options.names) - {step.name for step in known}
    if unknown:
        parser.error(f"there is no step {', '.join(sorted(unknown))}; --list names them")
    if options.list:
        print(*(step.name for step in known), sep="\n")
        return 0
    names = [] if options.report else options.names or [step.name for step in known]
    if options.resume:
        done = {item.name for item in recorded(known) if item.commit == commit() and not item.failed}
        names = [name for name in names if name not in done]
    failed = False
    for step in (step for step in known if step.name in names):
        failed |= run(step).failed
        write(known)
    if options.report:
        write(known)
    return int(failed)


def write(known: Sequence[Step]) -> None:
    """Write the report of what is recorded so far."""
    junit = [junit_file(step.name) for step in known if step.junit and junit_file(step.name).exists()]
    REPORT.write_text(report(recorded(known), junit), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
