"""`doctor`: what is installed here, what works, and what to install for the rest."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hsm_operators.installation import build_record, find_library

from ..building.cuda_driver import probe
from ..errors import MissingDependencyError
from ..formats.result import Result
from ..native import RUN_PROGRAM, run_program_path
from .trial import TIMEOUT, RuntimeState, try_everything


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
    trial = try_everything([known.module for known in _PACKAGES if known.tried and _installed(known.module)])
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
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=TIMEOUT, errors="replace")
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
