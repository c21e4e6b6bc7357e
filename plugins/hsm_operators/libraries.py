"""Libraries of operators that others defined: what they are called, where they are looked for, and what they hold.

An operator's kernels stand in the folder of its `spec.py`, or for a file `NAME.py` in the folder `NAME` beside it.
`hsm-export operator build` makes libraries of them, one for each adapter: `lib<name>_onnxruntime.so`,
`lib<name>_onnxruntime_cuda.so`, `lib<name>_tensorrt.so`, and for PyTorch `lib<name>_kernels.so` and
`lib<name>_kernels_cuda.so`. It puts all into a folder `lib` there. They are looked for in the folders of the
environment variable HSM_EXPORT_LIBRARIES, separated as in PATH, which child processes inherit; then in `lib` beside the
kernels, and in `lib` beside that folder, where several folders that were built together, and an installed package, have
theirs.

A library is asked what it holds. One that was built for another signature of an operator is not used.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .operator import DOMAIN, Operator
from .registry import origin_of
from .signature import signature

VARIABLE = "HSM_EXPORT_LIBRARIES"
FOLDER = "lib"

# Each kind of library, with the files of kernels of which one is enough to make it.
ADAPTERS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("cpu.cc",),
    "onnxruntime_cuda": ("cuda.cu",),
    "tensorrt": ("cuda.cu",),
    "kernels": ("cpu.cc", "naive.cc"),
    "kernels_cuda": ("cuda.cu",),
}
# CUDA kernels under the host shim, behind the functions of `kernels`: what tests run.
EMULATED: Mapping[str, tuple[str, ...]] = {"emulated": ("cuda.cu",)}
KERNELS = ("naive.cc", "cpu.cc", "cuda.cu")
_SPECIFICATIONS = ("spec.py", "torch_op.py", "__init__.py")


@dataclass(frozen=True)
class Home:
    """Where the kernels of an operator are, and where its libraries belong.

    Attributes:
        source: the folder or file that defines the operator: what `operator build` takes.
        folder: where `naive.cc`, `cpu.cc` and `cuda.cu` are.
    """

    source: Path
    folder: Path

    @property
    def name(self) -> str:
        """The name in those of the libraries."""
        return self.folder.name

    @property
    def libraries(self) -> tuple[Path, ...]:
        """The folders that may hold the libraries, the operator's own first."""
        return self.folder / FOLDER, self.folder.parent / FOLDER

    def has_kernels(self, adapter: str) -> bool:
        """Return whether there is a kernel that a library of that kind would run."""
        return any((self.folder / name).is_file() for name in ADAPTERS[adapter])


@dataclass(frozen=True)
class Library:
    """A library of operators.

    Attributes:
        path: the shared library.
        signatures: of the operators that it has kernels for, as `signature` writes them.
    """

    path: Path
    signatures: frozenset[str]


@dataclass(frozen=True)
class Selection:
    """The libraries for some operators.

    Attributes:
        adapter: their kind.
        libraries: by the operators' qualified names.
        missing: by the operators' qualified names, for those that have kernels and no library that holds them: a
            sentence that says what to build. An operator without kernels is in neither.
    """

    adapter: str
    libraries: Mapping[str, Library] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The libraries to load, each once, in the order of the operators."""
        return tuple(dict.fromkeys(library.path for library in self.libraries.values()))


def file_name(name: str, adapter: str) -> str:
    """Return what the library of that kind is called, of operators called `name` together."""
    return f"lib{name}_{adapter}.so"


def home_of(operator: Operator) -> Home | None:
    """Return where an operator's kernels would be; None for ours, and for one whose definition is in no file."""
    origin = origin_of(operator)
    if origin is None or operator.domain == DOMAIN:
        return None
    if origin.name in _SPECIFICATIONS:
        return Home(origin.parent, origin.parent)
    folder = origin.with_suffix("")
    own = folder / operator.torch_name  # a file of several operators may have a folder for each
    return Home(origin, own if any((own / name).is_file() for name in KERNELS) else folder)


def folders_of(home: Home | None) -> Iterator[Path]:
    """Yield the folders in which libraries are looked for: those of the environment, then the operator's own."""
    yield from map(Path, filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))
    if home is not None:
        yield from home.libraries
        if home.source.suffix == ".py" and home.folder.parent != home.source.parent:
            yield home.source.parent / FOLDER


def select(operators: Iterable[Operator], adapter: str) -> Selection:
    """Return the libraries that run some operators; our own operators are left out, whose libraries are known.

    A session of ONNX Runtime takes one library of a domain, so there those operators of a domain are found that one
    library holds, of several the one with most of them.

    Args:
        operators: such as those that a file uses.
        adapter: one of ADAPTERS.
    """
    foreign = {o.qualified_name: o for o in operators if o.domain != DOMAIN}
    found: dict[str, list[Library]] = {}
    missing: dict[str, str] = {}
    for name, operator in foreign.items():
        home = home_of(operator)
        holding, reason = _find(operator, adapter, home)
        if holding:
            found[name] = holding
        elif home is not None and home.has_kernels(adapter):
            missing[name] = _sentence(operator, adapter, home, reason)
    chosen = {name: holding[0] for name, holding in found.items()}
    if adapter.startswith("onnxruntime"):
        for domain in dict.fromkeys(foreign[name].domain for name in found):
            own = {name: holding for name, holding in found.items() if foreign[name].domain == domain}
            best = _most_common(own.values())
            for name, holding in own.items():
                chosen[name] = best
                if best not in holding:
                    del chosen[name]
                    both = [foreign[n] for n, holds in own.items() if best in holds] + [foreign[name]]
                    missing[name] = _two_of_one_domain(both, holding[0], best)
    return Selection(adapter, chosen, missing)


def _most_common(holding: Iterable[list[Library]]) -> Library:
    """Return the library that most operators have, the earliest of several."""
    counts: dict[Library, int] = {}
    for libraries in holding:
        for library in libraries:
            counts[library] = counts.get(library, 0) + 1
    return max(counts, key=lambda library: counts[library])


def _two_of_one_domain(operators: Sequence[Operator], own: Library, taken: Library) -> str:
    """Say how the last operator, and those before it, which are in the library that is taken, get into one."""
    operator = operators[-1]
    homes = list(dict.fromkeys(home.source for home in map(home_of, operators) if home is not None))
    apart = len({home.parent for home in homes}) > 1
    return (
        f"{operator.qualified_name} is in {own.path.name}, but ONNX Runtime takes one library of a domain, which is "
        f"{taken.path.name} for {operator.domain}; build them together: hsm-export operator build "
        f"{' '.join(map(str, homes)) or 'FOLDER...'}{f' --output FOLDER, with {VARIABLE}=FOLDER' if apart else ''}"
    )


def _find(operator: Operator, adapter: str, home: Home | None) -> tuple[list[Library], str]:
    """Return the libraries that hold an operator; without one, why the last that should does not."""
    wanted, reason = signature(operator), ""
    holding = []
    for path in dict.fromkeys(libraries_in(folders_of(home), adapter)):
        try:
            library = open_library(path)
        except OSError as error:
            reason = f"cannot be used: {error}"
            continue
        if wanted in library.signatures:
            holding.append(library)
            continue
        other = next((own for own in library.signatures if own.startswith(f"{operator.qualified_name}(")), "")
        if other:
            reason = f"is stale: it has {other}, but the definition is {wanted}"
        elif home is not None and path.name == file_name(home.name, adapter):
            reason = "is stale: it has no kernel of it"
    return holding, reason


def _sentence(operator: Operator, adapter: str, home: Home, reason: str) -> str:
    where = "" if home.folder == home.source else f" in {home.folder}"
    return (
        f"{operator.qualified_name} has kernels{where}, but {file_name(home.name, adapter)} {reason or 'is missing'}; "
        f"run: hsm-export operator build {home.source}"
    )


def libraries_in(folders: Iterable[Path], adapter: str) -> Iterator[Path]:
    """Yield the libraries of a kind in folders, by name; ours are none of them."""
    for folder in folders:
        yield from sorted(p for p in folder.glob(file_name("*", adapter)) if not p.name.startswith("libhsm_"))


_opened: dict[str, tuple[tuple[int, ...], Library]] = {}


def open_library(path: Path) -> Library:
    """Return what a library holds. It is loaded for that, into this process.

    Raises:
        OSError: it cannot be loaded, is no library of operators, or is another file than this process has loaded from
            there, which stays loaded.
    """
    status, real = path.stat(), str(path.resolve())
    identity = (status.st_ino, status.st_mtime_ns, status.st_size)
    if real not in _opened:
        _opened[real] = identity, Library(path, _signatures(real))
    known, library = _opened[real]
    if known != identity:
        raise OSError(f"{path} was built again since this process loaded it: start a new one")
    return library


def _signatures(path: str) -> frozenset[str]:
    try:
        function = ctypes.CDLL(path).hsm_library_operators
    except AttributeError as error:
        raise OSError(f"{path} has no function hsm_library_operators: it is no library of operators") from error
    function.restype = ctypes.c_char_p
    text: bytes = function() or b""
    return frozenset(filter(None, text.decode().split("\n")))
