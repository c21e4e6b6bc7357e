"""`doctor`: what is installed here, what works, and what to install for the rest."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hsm_operators.installation import KERNELS, build_record, find_library

from . import runtimes
from .building.cuda_driver import probe
from .child_process import code_command
from .errors import MissingDependencyError
from .formats.result import Result
from .native import RUN_PROGRAM, run_program_path

# How long the import of one package, or a compiler's `--version`, may take before it counts as broken.
_TIMEOUT = 60


@dataclass(frozen=True)
class _Known:
    """A package that some command uses: its module, the distributions that provide it, and who needs it."""

    module: str
    distributions: tuple[str, ...]
    purpose: str
    install: str
    required: bool = False
    tried: bool = False


_PACKAGES = (
    _Known("torch", ("torch",), "models, exporting, the arbiter", "torch", required=True, tried=True),
    _Known("onnx", ("onnx",), "exporting, checking, the reference runtime", "onnx", required=True, tried=True),
    _Known("onnxscript", ("onnxscript",), "exporting", "onnxscript", required=True),
    _Known("polygraphy", ("polygraphy",), "validating, building", "polygraphy", required=True),
    _Known("safetensors", ("safetensors",), "checkpoints", "safetensors", required=True),
    _Known(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu"),
        "checking exports, validating",
        "'hsm-export[cpu]'",
        required=True,
        tried=True,
    ),
    _Known("tensorrt_rtx", ("tensorrt-rtx-cu13",), "building for RTX GPUs", "'hsm-export[rtx]'", tried=True),
    _Known("tensorrt", ("tensorrt-cu13", "tensorrt"), "building for other GPUs", "'hsm-export[tensorrt]'", tried=True),
    _Known("sklearn", ("scikit-learn",), "training on its digits", "'hsm-export[train]'"),
)
_LIBRARIES = (
    ("ONNX Runtime", "onnxruntime", "capi/libonnxruntime.so*"),
    ("TensorRT-RTX", "tensorrt_rtx_libs", "libtensorrt_rtx.so*"),
    ("TensorRT", "tensorrt_libs", "libnvinfer.so*"),
)


@dataclass(frozen=True)
class Package:
    """A Python package.

    Attributes:
        name: name of the module.
        version: installed version, or None when it is missing.
        purpose: what it is for.
        required: the main job, export and validation, needs it.
        problem: why it is not usable, or None.
        install: what `pip install` takes to get it.
    """

    name: str
    version: str | None
    purpose: str
    required: bool
    problem: str | None
    install: str


@dataclass(frozen=True)
class RuntimeState:
    """A runtime and, when it does not work here, the reason."""

    name: str
    description: str
    problem: str | None


@dataclass(frozen=True)
class Tool:
    """A library or a program of the system, its version or path, or None when it was not found."""

    name: str
    found: str | None


@dataclass(frozen=True)
class Finding:
    """Something to act upon: an "error" stops the main job, a "warning" will bite, a "note" is optional."""

    severity: Literal["error", "warning", "note"]
    message: str
    fix: str | None = None


@dataclass(frozen=True)
class DoctorResult(Result):
    """The state of this machine.

    Attributes:
        ready: export and validation work.
        hsm_export: version of this package.
        python: Python's version and platform.
        packages: Python packages.
        runtimes: runtimes that `hsm-export validate` can compare.
        gpus: NVIDIA GPUs.
        driver: the newest CUDA version that the NVIDIA driver supports, or why there is none.
        libraries: shared libraries that the runtimes load.
        tools: compilers.
        findings: what to act upon, the gravest first.
    """

    ready: bool
    hsm_export: str
    python: str
    packages: tuple[Package, ...]
    runtimes: tuple[RuntimeState, ...]
    gpus: tuple[str, ...]
    driver: str
    libraries: tuple[Tool, ...]
    tools: tuple[Tool, ...]
    findings: tuple[Finding, ...]


def doctor() -> DoctorResult:
    """Look at this machine; never raises, and takes a few seconds at most.

    Returns:
        What is installed, what works, and what to install for the rest.
    """
    trial = _try_everything([known.module for known in _PACKAGES if known.tried and _installed(known.module)])
    driver = probe()
    tools = _tools()
    libraries = _libraries()
    packages = tuple(_package(known, trial.problems.get(known.module)) for known in _PACKAGES)
    findings = sorted(
        (
            *_package_findings(packages),
            *_runtime_findings(trial.runtimes),
            *_gpu_findings(packages, driver.devices),
            *_native_findings(tools),
            *_kernel_findings(trial.kernels),
        ),
        key=lambda finding: ("error", "warning", "note").index(finding.severity),
    )
    return DoctorResult(
        ready=not any(finding.severity == "error" for finding in findings),
        hsm_export=_version(("hsm-export",)) or "not installed (run from its source tree)",
        python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        packages=packages,
        runtimes=trial.runtimes,
        gpus=driver.devices,
        driver=f"CUDA {driver.version}" if driver.version else driver.reason or "none",
        libraries=libraries,
        tools=tools,
        findings=tuple(findings),
    )


@dataclass(frozen=True)
class _Trial:
    """What another process found out by importing things.

    Attributes:
        problems: why each module fails.
        runtimes: the runtimes' states.
        kernels: why PyTorch cannot run the fused kernels, or None.
    """

    problems: dict[str, str]
    runtimes: tuple[RuntimeState, ...]
    kernels: str | None


def _try_everything(modules: Sequence[str]) -> _Trial:
    """Import all modules in one process; where that dies, each in its own, to learn which one is to blame."""
    output, problem = _finish(_start(f"from hsm_export.diagnosis import _report as r; r({list(modules)!r})"))
    if problem is None:
        answer = json.loads(output.splitlines()[-1])
        states = tuple(RuntimeState(*fields) for fields in answer["runtimes"])
        return _Trial(answer["problems"], states, answer["kernels"])
    started = {module: _start(f"import {module}") for module in modules}
    ended = {module: _finish(process)[1] for module, process in started.items()}
    problems = {module: reason for module, reason in ended.items() if reason is not None}
    culprits = ", ".join(problems) or "one of the packages"
    broken = f"{culprits} is broken"
    return _Trial(problems, tuple(RuntimeState(name, "", broken) for name in runtimes.names()), broken)


def _report(modules: Sequence[str]) -> None:
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
        output, errors = process.communicate(timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", "its import does not end"
    if process.returncode == 0:
        return output, None
    if process.returncode < 0:
        return output, f"its import crashes with signal {-process.returncode}"
    return output, errors.strip().splitlines()[-1] if errors.strip() else f"its import exits with {process.returncode}"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(distributions: Sequence[str]) -> str | None:
    """Return the version of the first distribution that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _package(known: _Known, problem: str | None) -> Package:
    installed = _installed(known.module)
    return Package(
        name=known.module,
        version=(_version(known.distributions) or "unknown version") if installed else None,
        purpose=known.purpose,
        required=known.required,
        problem=problem if installed else "not installed",
        install=known.install,
    )


def _libraries() -> tuple[Tool, ...]:
    found = [Tool(name, _library(package, pattern)) for name, package, pattern in _LIBRARIES]
    return (*found, *_native_libraries(), Tool(RUN_PROGRAM, _run_program()))


def _run_program() -> str | None:
    try:
        return str(run_program_path())
    except MissingDependencyError:
        return None


def _library(package: str, pattern: str) -> str | None:
    """Return the path of a shared library inside an installed package, without importing the package."""
    if not _installed(package):
        return None
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((str(path) for folder in folders for path in sorted(Path(folder).glob(pattern))), None)


def _native_libraries() -> Iterator[Tool]:
    listed = (build_record() or {}).get("libraries")
    for name in listed if isinstance(listed, list) else ():
        path = find_library(str(name))
        yield Tool(str(name), str(path) if path else None)


def _tools() -> tuple[Tool, ...]:
    compiler = _program(os.environ.get("CXX"), "c++", "g++", "clang++", "cl")
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = _program(os.environ.get("CUDACXX"), "nvcc", f"{cuda}/bin/nvcc")
    return Tool("C++ compiler", _described(compiler)), Tool("nvcc", _described(nvcc))


def _program(*candidates: str | None) -> str | None:
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def _described(path: str | None) -> str | None:
    """Return a program's path and the line of its `--version` that tells the version."""
    if path is None:
        return None
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return path
    lines = [line.strip() for line in output.stdout.splitlines() if line.strip()]
    version = next((line for line in lines if "release" in line), lines[0] if lines else None)
    return f"{path}: {version}" if version else path


def _package_findings(packages: Sequence[Package]) -> Iterator[Finding]:
    for package in packages:
        if package.problem is None:
            continue
        broken = package.version is not None
        message = f"{package.name} ({package.purpose}) is {'installed but broken: ' if broken else ''}{package.problem}"
        fix = f"pip install {'--force-reinstall ' if broken else ''}{package.install}"
        severity: Literal["error", "warning", "note"] = "error" if package.required else "warning" if broken else "note"
        yield Finding(severity, message, fix)
    if _version(("onnxruntime",)) and _version(("onnxruntime-gpu",)):
        yield Finding(
            "warning",
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other's files",
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'hsm-export[cpu]' or 'hsm-export[gpu]'",
        )


def _runtime_findings(states: Sequence[RuntimeState]) -> Iterator[Finding]:
    """Without PyTorch or ONNX Runtime there is nothing to compare; the other runtimes are welcome but optional."""
    for state in states:
        if state.problem is not None:
            needed = state.name in ("torch", "torch64", "ort")
            yield Finding("error" if needed else "note", f"the runtime {state.name} does not work: {state.problem}")


def _gpu_findings(packages: Sequence[Package], devices: Sequence[str]) -> Iterator[Finding]:
    usable = {package.name for package in packages if package.problem is None}
    if not devices and "tensorrt_rtx" in usable:
        yield Finding("note", "no GPU: engines for TensorRT-RTX can be built here, but not run, stripped or refitted")
    if not devices and "tensorrt" in usable:
        yield Finding("note", "no GPU: TensorRT cannot build here", "use `hsm-export build --target tensorrt-rtx`")


def _native_findings(tools: Sequence[Tool]) -> Iterator[Finding]:
    if build_record() is not None:
        return
    compiler = any(tool.name == "C++ compiler" and tool.found for tool in tools)
    yield Finding(
        "note",
        "this installation has no native libraries: mixers run from their function bodies",
        "pip install --force-reinstall --no-deps hsm-export"
        if compiler
        else "install a C++ compiler, then pip install --force-reinstall --no-deps hsm-export",
    )


def _kernel_findings(problem: str | None) -> Iterator[Finding]:
    if problem is not None:
        yield Finding(
            "note",
            f"PyTorch computes mixers without the fused kernels, which is slower: {problem}",
            "install a C++ compiler, then pip install --force-reinstall --no-deps hsm-export",
        )
