"""What works on this machine, tried in other processes: a damaged package may crash the one that imports it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hsm_operators.installation import KERNELS

from .. import runtimes
from ..child_process import code_command

TIMEOUT = 60  # seconds that the import of one package may take before it counts as broken


@dataclass(frozen=True)
class RuntimeState:
    """A runtime and, when it does not work here, the reason."""

    name: str
    description: str
    problem: str | None


@dataclass(frozen=True)
class Trial:
    """What another process found out by importing things.

    Attributes:
        problems: why each module fails.
        runtimes: the runtimes' states.
        kernels: why PyTorch cannot run the fused kernels, or None.
    """

    problems: dict[str, str]
    runtimes: tuple[RuntimeState, ...]
    kernels: str | None


def try_everything(modules: Sequence[str]) -> Trial:
    """Import all modules in one process; where that dies, each in its own, to learn which one is to blame."""
    output, problem = _finish(_start(f"from hsm_export.diagnosis.trial import report; report({list(modules)!r})"))
    if problem is None:
        answer = json.loads(output.splitlines()[-1])
        states = tuple(RuntimeState(*fields) for fields in answer["runtimes"])
        return Trial(answer["problems"], states, answer["kernels"])
    started = {module: _start(f"import {module}") for module in modules}
    ended = {module: _finish(process)[1] for module, process in started.items()}
    problems = {module: reason for module, reason in ended.items() if reason is not None}
    culprits = ", ".join(problems) or "one of the packages"
    broken = f"{culprits} is broken"
    return Trial(problems, tuple(RuntimeState(name, "", broken) for name in runtimes.names()), broken)


def report(modules: Sequence[str]) -> None:
    """Import modules, try every runtime and the kernels, and print what was found; runs in a process of its own."""
    problems = {module: reason for module in modules if (reason := _import_problem(module))}
    states = [dataclasses.astuple(_runtime_state(name)) for name in runtimes.names()]
    print(json.dumps({"problems": problems, "runtimes": states, "kernels": _kernel_problem()}))


def _import_problem(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a damaged package may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _kernel_problem() -> str | None:
    """Return why PyTorch cannot run the fused kernels, or None when it can."""
    try:
        from hsm_operators.kernels import own_library

        return None if own_library() else f"this installation has no {KERNELS}"
    except Exception as error:  # PyTorch is missing or damaged, or the library is
        return f"{type(error).__name__}: {error}"


def _runtime_state(name: str) -> RuntimeState:
    try:
        runtime = runtimes.get(name)
        return RuntimeState(name, runtime.description, runtime.available())
    except Exception as error:  # as above: its module imports such packages
        return RuntimeState(name, "", f"{type(error).__name__}: {error}")


def _start(code: str) -> subprocess.Popen[str]:
    """Run Python code in another process, because a damaged package may crash the process that imports it."""
    return subprocess.Popen(
        code_command(code),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        text=True,
        errors="replace",
    )


def _finish(process: subprocess.Popen[str]) -> tuple[str, str | None]:
    """Wait for a process; return what it printed and why it failed, or None."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", "its import does not end"
    if process.returncode == 0:
        return output, None
    if process.returncode < 0:
        return output, f"its import crashes with signal {-process.returncode}"
    return output, errors.strip().splitlines()[-1] if errors.strip() else f"its import exits with {process.returncode}"
