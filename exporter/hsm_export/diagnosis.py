"""`doctor`: what is installed here, what works, and what to install for the rest."""

from __future__ import annotations

import dataclasses
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

from .building.cuda_driver import probe
from .results import Result

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
    asked = _start("from hsm_export.diagnosis import _print_runtime_states as ask; ask()")
    trials = {
        known.module: _start(f"import {known.module}")
        for known in _PACKAGES
        if known.tried and _installed(known.module)
    }
    driver = probe()
    tools = _tools()
    libraries = _libraries()
    problems = {module: _finish(process)[1] for module, process in trials.items()}
    runtimes = _runtimes(asked)
    packages = tuple(_package(known, problems.get(known.module)) for known in _PACKAGES)
    findings = sorted(
        (
            *_package_findings(packages),
            *_runtime_findings(runtimes),
            *_gpu_findings(packages, driver.devices),
            *_native_findings(tools),
        ),
        key=lambda finding: ("error", "warning", "note").index(finding.severity),
    )
    return DoctorResult(
        ready=not any(finding.severity == "error" for finding in findings),
        hsm_export=_version(("hsm-export",)) or "not installed (run from its source tree)",
        python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        packages=packages,
        runtimes=runtimes,
        gpus=driver.devices,
        driver=f"CUDA {driver.version}" if driver.version else driver.reason or "none",
        libraries=libraries,
        tools=tools,
        findings=tuple(findings),
    )


def _start(code: str) -> subprocess.Popen[str]:
    """Run Python code in another process, because a damaged package may crash the process that imports it."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
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


def runtime_states() -> tuple[RuntimeState, ...]:
    """Ask every runtime of the registry whether it works; imports PyTorch."""
    from . import runtimes

    return tuple(_runtime_state(name) for name in runtimes.names())


def _runtime_state(name: str) -> RuntimeState:
    from . import runtimes

    try:
        runtime = runtimes.get(name)
        return RuntimeState(name, runtime.description, runtime.available())
    except Exception as error:  # a runtime's module may fail in any way when its libraries are damaged
        return RuntimeState(name, "", f"{type(error).__name__}: {error}")


def _print_runtime_states() -> None:
    print(json.dumps([dataclasses.astuple(state) for state in runtime_states()]))


def _runtimes(process: subprocess.Popen[str]) -> tuple[RuntimeState, ...]:
    """Read the answer of a process that ran `_print_runtime_states`."""
    from . import runtimes

    output, problem = _finish(process)
    if problem is not None:
        return tuple(RuntimeState(name, "", problem) for name in runtimes.names())
    return tuple(RuntimeState(*fields) for fields in json.loads(output.splitlines()[-1]))


def _libraries() -> tuple[Tool, ...]:
    found = [Tool(name, _library(package, pattern)) for name, package, pattern in _LIBRARIES]
    return (*found, *_native_libraries())


def _library(package: str, pattern: str) -> str | None:
    """Return the path of a shared library inside an installed package, without importing the package."""
    if not _installed(package):
        return None
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((str(path) for folder in folders for path in sorted(Path(folder).glob(pattern))), None)


def _native() -> dict[str, object] | None:
    """Return what the wheel's native build recorded, or None when there was none."""
    try:
        data = json.loads((Path(__file__).parent / "native.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _native_libraries() -> Iterator[Tool]:
    listed = (_native() or {}).get("libraries")
    for name in listed if isinstance(listed, list) else ():
        path = Path(__file__).parent / str(name)
        yield Tool(str(name), str(path) if path.is_file() else None)


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


def _runtime_findings(runtimes: Sequence[RuntimeState]) -> Iterator[Finding]:
    """Without PyTorch or ONNX Runtime there is nothing to compare; the other runtimes are welcome but optional."""
    for state in runtimes:
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
    if _native() is not None:
        return
    compiler = any(tool.name == "C++ compiler" and tool.found for tool in tools)
    yield Finding(
        "note",
        "this installation has no native libraries: mixers run from their function bodies",
        "pip install --force-reinstall --no-deps hsm-export"
        if compiler
        else "install a C++ compiler, then pip install --force-reinstall --no-deps hsm-export",
    )
