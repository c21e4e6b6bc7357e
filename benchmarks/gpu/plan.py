"""The steps of `make gpu-test`, their one list: what each runs, how long it may take, and what it answers."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path("build/native-gpu/torch/libhsm_kernels_cuda.so")
OUTPUT = Path("build/gpu")
WRONG = 9  # exit code of a sanitizer that found something
_PYTHON = ("{python}", "-m")
_BENCHMARK = (*_PYTHON, "benchmarks.gpu")
_KERNELS = "regex:taylor_|expert_|shift_|decayed_"


@dataclass(frozen=True)
class Step:
    """One command. It goes on where it ended, as far as it can, and keeps what it saw in the folder of results.

    Attributes:
        name: what the command line and the report call it.
        minutes: after which it is ended.
        answers: what is known afterwards.
        command: program and arguments; {python}, {library} and {output} stand for paths.
        tool: the program that must be there, beside Python and PyTorch.
    """

    name: str
    minutes: float
    answers: str
    command: tuple[str, ...]
    tool: str = ""

    def filled(self, library: Path, output: Path, python: str = sys.executable) -> list[str]:
        """Return the command with its paths."""
        paths = {"{python}": python, "{library}": str(library), "{output}": str(output)}
        return [_filled(part, paths) for part in self.command]


def _filled(part: str, paths: dict[str, str]) -> str:
    for place, path in paths.items():
        part = part.replace(place, path)
    return part


def _measured(step: str, minutes: float = 9) -> tuple[str, ...]:
    return (
        *_BENCHMARK,
        step,
        "--library",
        "{library}",
        "--output",
        f"{{output}}/{step}.json",
        "--minutes",
        f"{minutes:g}",
    )


def _sanitized(tool: str, answers: str) -> Step:
    sanitizer = ("compute-sanitizer", "--tool", tool, "--error-exitcode", str(WRONG))
    numbers = ("numbers", "--library", "{library}", "--output", f"{{output}}/{tool}.json", "--only", "odd")
    return Step(tool, 10, answers, (*sanitizer, *_BENCHMARK, *numbers), sanitizer[0])


STEPS = (
    Step(
        "kernels",
        10,
        "the kernels compile for this GPU, and compute what the CPU kernels compute, in every order that it likes",
        ("bash", "tools/cpp_test.sh", "gpu", "{output}/kernels.json"),
        "nvcc",
    ),
    Step(
        "numbers",
        10,
        "every tactic of every kernel in every type against float64, on poisoned outputs, twice for equal bits",
        _measured("numbers"),
    ),
    _sanitized("memcheck", "no kernel reads or writes beyond its tensors"),
    _sanitized("racecheck", "no two threads of a block race for shared memory"),
    _sanitized("synccheck", "every barrier is reached by all that it waits for"),
    _sanitized("initcheck", "nothing is read that nobody wrote"),
    Step(
        "times",
        10,
        "what this GPU reaches at best, and every tactic's time at the sizes that are used, as ratios to PyTorch, "
        "to attention, to a dense product, to a copy",
        _measured("times"),
    ),
    Step(
        "counters",
        10,
        "tensor pipe, issue slots, bytes from L2 and DRAM and bank conflicts of the real kernels, to compare with "
        "docs/cuda-report.md",
        (
            *("ncu", "--clock-control", "none", "--set", "full", "--kernel-name", _KERNELS, "--launch-count", "40"),
            *("--csv", "--page", "raw", "--log-file", "{output}/counters.csv"),
            *_BENCHMARK,
            *("times", "--library", "{library}", "--output", "{output}/counted.json", "--only", "bf16"),
        ),
        "ncu",
    ),
    Step(
        "engines",
        30,
        "an engine of every zoo model where TensorRT is installed, ONNX Runtime's providers, their numbers and times",
        (*_PYTHON, "pytest", "-q", "-m", "gpu", "--junitxml={output}/engines.xml", "tests/gpu"),
    ),
)


def named(names: Sequence[str]) -> list[Step]:
    """Return those steps, all where none is named.

    Raises:
        ValueError: there is no such step.
    """
    known = {step.name: step for step in STEPS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no step {', '.join(unknown)}; steps are {', '.join(known)}")
    return [known[name] for name in names] if names else list(STEPS)


def kernels() -> str:
    """Return a digest of the kernels and their launchers: of every .cu file and all that they include of ours."""
    folder = ROOT / "plugins"
    known: set[Path] = set()
    waiting = set(folder.glob("hsm_operators/*/*.cu"))
    while waiting:
        path = waiting.pop()
        known.add(path)
        included = re.findall(r'^#include "(hsm_operators/.*)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        waiting |= {folder / name for name in included} - known
    digest = hashlib.sha256()
    for path in sorted(known):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
