"""Build the libraries of operators of one's own from their kernels, with the adapters' sources of this installation."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsm_operators import discovery, libraries
from hsm_operators.generate.family import CPU, CUDA, NAIVE, Family
from hsm_operators.generate.project import families_of
from hsm_operators.libraries import ADAPTERS, EMULATED, file_name

from ..child_process import python_environment
from ..errors import BadInputError, HsmExportError, MissingDependencyError, UsageError
from ..files import atomic_path, sha256
from ..formats.result import Result
from ..native import cmake_prefix_path

# What the command line calls the adapters; cuda is all of its libraries, emulated is for `hsm-export operator test`.
PARTS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "onnxruntime_cuda": ("onnxruntime_cuda",),
    "tensorrt": ("tensorrt",),
    "torch": ("kernels",),
    "torch_cuda": ("kernels_cuda",),
    "cuda": ("onnxruntime_cuda", "tensorrt", "kernels_cuda"),
    "emulated": ("emulated",),
}
_SCRATCH = ".build"
_LOG = "build.log"
_PROJECT = """cmake_minimum_required(VERSION 3.24)
project({name} LANGUAGES CXX)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
find_package(HsmPlugins CONFIG REQUIRED NO_DEFAULT_PATH PATHS "{prefix}")
hsm_add_operators({name} FOLDER {sources} ADAPTERS {adapters} REQUIRED {required})
set_target_properties(${{HSM_OPERATORS_LIBRARIES}} PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${{CMAKE_BINARY_DIR}}/lib")
"""
_NO_COMPILER = "No CMAKE_CXX_COMPILER could be found"
_UNDEFINED = re.compile(r"undefined (?:reference to|symbol:) [`']?(?:hsm::)(?:cuda::)?(\w+)")
_COMPILER_ERROR = re.compile(
    r"^(?P<where>[^\s:]+(?::\d+)*): (?:fatal )?error: (?P<what>.+)$|^(?P<nvcc>\S+\(\d+\): error: .+)$", re.M
)
_STEP = re.compile(r"^\[\s*(\d+)/(\d+)\]|^\[\s*(\d+)%\]")


@dataclass(frozen=True)
class BuiltLibrary:
    """A library that was built.

    Attributes:
        adapter: one of `hsm_operators.libraries.ADAPTERS`.
        path: the shared library.
        bytes: its size.
        sha256: of its bytes, as a bundle's manifest has it.
        operators: qualified names of the operators that it runs.
    """

    adapter: str
    path: Path
    bytes: int
    sha256: str
    operators: tuple[str, ...]


@dataclass(frozen=True)
class OperatorBuildResult(Result):
    """What `build_operators` did.

    Attributes:
        source: the folder, file or module of the operators; several are separated by spaces.
        name: the name in those of the libraries.
        libraries: what was built.
        left_out: by adapter, why there is no library for it.
        seconds: that it took.
    """

    source: str
    name: str
    libraries: tuple[BuiltLibrary, ...]
    left_out: Mapping[str, str]
    seconds: float


def build_operators(
    source: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    name: str | None = None,
    only: Iterable[str] = (),
    require: Iterable[str] = (),
    architectures: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> OperatorBuildResult:
    """Compile the kernels of operators of one's own into a library for each runtime, which every command then finds.

    The kernels are `naive.cc`, `cpu.cc` and `cuda.cu` in an operator's folder, as of our own operators; of a file
    `NAME.py`, in the folder `NAME` beside it. Nothing is downloaded. What is compiled stays in `.build` inside the
    output folder, so that the next build compiles only what changed.

    Args:
        source: an operator's folder, a .py file, a folder of these, or a module; or several, for one library of all.
        output: folder of the libraries; None: `lib` beside the kernels, where they are looked for, and of several
            sources in the folder that they share.
        name: the name in those of the libraries, lib<name>_onnxruntime.so; None: that of the folder or file, and of
            several theirs together.
        only: the parts to build, of PARTS; none: all that there are kernels for.
        require: the parts without which the build fails; others are left out where something is missing.
        architectures: GPU architectures such as "sm86,sm89"; None: HSM_CUDA_ARCHITECTURES, else all.
        progress: receives the name of each phase.

    Raises:
        UsageError: there is no such part, the name is none, or several sources share no folder and no output is given.
        OperatorError: the operators cannot be loaded, or have no kernels.
        BadInputError: a kernel is missing or does not compile.
        MissingDependencyError: CMake, a compiler, or what a required part needs is missing.
    """
    report = progress or (lambda _phase: None)
    started = time.monotonic()
    adapters, required = _adapters(only) or tuple(ADAPTERS), _adapters(require)
    report("reading the operators")
    sources = [str(item) for item in ([source] if isinstance(source, (str, Path)) else source)]
    families = [family for item in sources for family in families_of(item)]
    paths = list(dict.fromkeys(map(discovery.path_of, sources)))
    folders = [path.with_suffix("") if path.is_file() else path for path in paths]
    name = _checked_name(name or re.sub(r"\W", "_", "_".join(folder.name for folder in folders)))
    output = Path(output).resolve() if output is not None else _home(folders) / libraries.FOLDER
    source = " ".join(sources)
    _refuse_without_kernels(families, required, source)
    with _scratch(output) as scratch:
        build = _Build(scratch, name)
        build.configure(paths, adapters, required, architectures, report)
        left_out = _left_out(scratch, name)
        if set(left_out) >= set(adapters):
            reasons = "; ".join(f"{file_name(name, adapter)}: {reason}" for adapter, reason in left_out.items())
            raise MissingDependencyError(f"nothing of {source} can be built: {reasons}")
        build.compile(families, report)
        report("checking the libraries")
        built = [_install(build, adapter, output, families) for adapter in adapters if adapter not in left_out]
    return OperatorBuildResult(source, name, tuple(built), left_out, round(time.monotonic() - started, 3))


def _home(folders: Sequence[Path]) -> Path:
    """Return the folder in whose `lib` libraries are looked for, whichever of the operators is used."""
    if len(folders) == 1:
        return folders[0]
    around = {folder.parent for folder in folders}
    if len(around) > 1:
        raise UsageError(
            f"{', '.join(map(str, folders))} are in no folder of their own",
            f"give --output, and name that folder in {libraries.VARIABLE}",
        )
    return around.pop()


def _adapters(parts: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"there is no part {part!r} of operators' libraries", f"parts are {', '.join(PARTS)}")
        found |= dict.fromkeys(PARTS[part])
    return tuple(found)


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name == "hsm":
        raise UsageError(f"a library of operators cannot be called {name!r}", "give --name: letters, digits and _")
    return name


def _refuse_without_kernels(families: Sequence[Family], required: Iterable[str], source: str) -> None:
    for adapter in required:
        wanted = {**ADAPTERS, **EMULATED}[adapter]
        if not any(family.has(kernels) for family in families for kernels in wanted):
            raise BadInputError(
                f"{source} has no kernels for the required part {adapter}", f"write {' or '.join(wanted)}"
            )


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """Yield the folder that is kept from build to build, while no other process builds in it."""
    scratch = output / _SCRATCH
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / ".gitignore").write_text("*\n")
        lock = (scratch / "lock").open("w")
    except OSError as error:
        raise BadInputError(
            f"cannot write into {output}: {error.strerror}", "give --output a writable folder"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield scratch


def _left_out(scratch: Path, name: str) -> dict[str, str]:
    lines = (scratch / "tree" / name / "left_out.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines)


class _Build:
    """A build with CMake in a scratch folder.

    Args:
        scratch: the folder, of this process alone.
        name: of the libraries.
    """

    def __init__(self, scratch: Path, name: str) -> None:
        self._scratch = scratch
        self._name = name
        self._log = scratch / _LOG
        self._cmake = _program("cmake")

    def configure(
        self,
        sources: Iterable[Path],
        adapters: Iterable[str],
        required: Iterable[str],
        architectures: str | None,
        report: Callable[[str], None],
    ) -> None:
        """Generate the C++ files and find compilers and headers."""
        report("configuring")
        prefix = cmake_prefix_path()
        if not (prefix / "share" / "hsm").is_dir():
            raise MissingDependencyError(
                "this installation has no sources of adapters", "pip install --force-reinstall --no-deps hsm-export"
            )
        text = _PROJECT.format(
            name=self._name,
            prefix=prefix,
            sources=" ".join(f'"{source}"' for source in sources),
            adapters=" ".join(adapters),
            required=" ".join(required),
        )
        (self._scratch / "CMakeLists.txt").write_text(text, encoding="utf-8")
        tree = self._scratch / "tree"
        command: list[str | Path] = [self._cmake, "-S", self._scratch, "-B", tree, "-DCMAKE_BUILD_TYPE=Release"]
        command += [f"-DHSM_PYTHON={sys.executable}", "-DHSM_FETCH=OFF"]
        if not (tree / "CMakeCache.txt").is_file() and _found("ninja"):
            command += ["-G", "Ninja"]
        if architectures is not None:
            command.append(f"-DHSM_CUDA_ARCHITECTURES={_cmake_architectures(architectures)}")
        code, output = self._run(command, lambda _line: None)
        if code:
            # What was found before may be gone, or come since: the next build looks again.
            shutil.rmtree(tree, ignore_errors=True)
            raise _configuration_error(output)

    def compile(self, families: Sequence[Family], report: Callable[[str], None]) -> None:
        """Compile and link."""
        report("compiling")

        said = 0

        def follow(line: str) -> None:
            nonlocal said
            found = _STEP.match(line)
            tenths = 0 if not found else int(found[1]) * 10 // int(found[2]) if found[1] else int(found[3]) // 10
            if tenths > said:
                said = tenths
                report(f"compiling, {10 * tenths} %")

        jobs = str(len(os.sched_getaffinity(0)))
        code, output = self._run([self._cmake, "--build", self._scratch / "tree", "--parallel", jobs], follow)
        if code:
            raise _compilation_error(output, families, self._log)

    def library(self, adapter: str) -> Path:
        """Return the library that was linked for an adapter."""
        return self._scratch / "tree" / "lib" / file_name(self._name, adapter)

    def _run(self, command: Sequence[str | Path], follow: Callable[[str], None]) -> tuple[int, str]:
        """Run a program; return its exit code and what it said, which is in the log too."""
        # The generator imports what this process would.
        environment = {**os.environ, **python_environment(), "LC_ALL": "C"}
        path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**environment, "PATH": path},
        )
        lines = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                follow(line)
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        text = "".join(lines)
        self._log.write_text(text, encoding="utf-8")
        return process.returncode, text


def _found(program: str) -> str | None:
    """Return a program's path: beside this Python, or on PATH."""
    return shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)


def _program(program: str) -> str:
    found = _found(program)
    if found is None:
        raise MissingDependencyError(f"{program} is not installed", "pip install cmake ninja")
    return found


def _cmake_architectures(architectures: str) -> str:
    """Return sm86,sm89 as CMake has it, 86-real;89-real."""
    found = [word.strip().lower().removeprefix("sm") for word in architectures.split(",")]
    if not all(re.fullmatch(r"\d{2,3}[af]?", word) for word in found):
        raise UsageError(f"{architectures!r} is no list of GPU architectures", "write it as in sm86,sm89")
    return ";".join(f"{word}-real" for word in found)


def _configuration_error(output: str) -> HsmExportError:
    if _NO_COMPILER in output:
        return MissingDependencyError(
            "there is no C++ compiler", "install g++ 12 or newer (Debian: apt-get install g++)"
        )
    # "CMake Error at FILE:LINE (message):", an empty line, the text indented, an empty line.
    found = re.search(r"^CMake Error.*?\n\n?(?P<text>(?: {2}.*\n|\n)+)", output, re.M)
    text = " ".join((found["text"] if found else output[-2000:]).split("Call Stack")[0].split())
    generated = re.search(r"cannot be generated: error: (.+)", text)
    if generated:
        return BadInputError(generated[1])
    return MissingDependencyError(text or "CMake failed without a word", "see `hsm-export operator build --help`")


def _compilation_error(output: str, families: Sequence[Family], log: Path) -> BadInputError:
    hint = f"all that the compiler said is in {log}"
    missing = dict.fromkeys(_UNDEFINED.findall(output))
    for family in families:
        for operator in family.operators:
            for function in missing:
                if function == operator.kernel or function.startswith(f"{operator.kernel}_"):
                    return BadInputError(
                        f"{operator.qualified_name} has no function {function} in {family.folder}",
                        _declared(family, hint),
                    )
    found = _COMPILER_ERROR.search(output)
    if found is None:
        lines = output.strip().splitlines()
        return BadInputError(f"the kernels do not compile: {lines[-1] if lines else 'without a word'}", hint)
    if found["nvcc"]:
        return BadInputError(f"the kernels do not compile: {found['nvcc']}", hint)
    return BadInputError(f"the kernels do not compile: {found['where']}: {found['what']}", hint)


def _declared(family: Family, hint: str) -> str:
    return f"write it as {family.name}/args.gen.h or {family.name}/cuda.gen.h declares it; {hint}"


def _install(build: _Build, adapter: str, output: Path, families: Iterable[Family]) -> BuiltLibrary:
    """Check a library and put it in its place."""
    built = build.library(adapter)
    kinds = {"onnxruntime": (CPU,), "kernels": (CPU, NAIVE)}.get(adapter, (CUDA,))
    expected = {o.qualified_name for f in families if any(map(f.has, kinds)) for o in f.operators}
    held = {signature.partition("(")[0] for signature in _signatures(built)}
    if held != expected:
        raise HsmExportError(f"{built} holds {sorted(held)} in place of {sorted(expected)}")
    path = output / built.name
    with atomic_path(path) as scratch:
        shutil.copyfile(built, scratch)
    return BuiltLibrary(adapter, path, path.stat().st_size, sha256(path), tuple(sorted(held)))


def _signatures(path: Path) -> list[str]:
    """Return what a library holds. Another process loads it: this one could not load what the next build makes."""
    script = "import sys; from hsm_operators.libraries import open_library as o; from pathlib import Path as P;"
    script += "print('\\n'.join(sorted(o(P(sys.argv[1])).signatures)))"
    environment = {**os.environ, **python_environment()}
    environment.pop(discovery.VARIABLE, None)
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise HsmExportError(f"{path} cannot be loaded: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.split("\n")[:-1]
