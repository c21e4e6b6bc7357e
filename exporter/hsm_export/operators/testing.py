"""Run the matrix of `hsm_operators.testing` on somebody's operators, with the kernels that stand beside them."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hsm_operators import Operator, OperatorError
from hsm_operators.case import Case
from hsm_operators.generate.project import operators_of
from hsm_operators.kernels import KernelLibrary
from hsm_operators.libraries import home_of, open_library
from hsm_operators.signature import signature
from hsm_operators.testing import (
    DTYPES,
    Cell,
    Check,
    Implementation,
    KernelOf,
    Matrix,
    Subject,
    Torch,
    default_case,
    judge,
)
from hsm_operators.testing.emulated import EmulatedLibrary
from hsm_operators.translation import overload_of

from ..errors import HsmExportError, MissingDependencyError, UsageError
from ..exporting.bodies import one_node_model
from .bodies import bodies, retyped
from .building import OperatorBuildResult, build_operators

# The parts of a build, by what is tested of them.
_BUILT = {"naive": "torch", "fast": "torch", "cuda": "emulated", "engine": "tensorrt"}
IMPLEMENTATIONS = ("torch", "onnx-reference", "ort", "naive", "fast", "cuda", "engine")
_SOURCES = {"naive": "naive.cc", "fast": "cpu.cc", "cuda": "cuda.cu", "engine": "cuda.cu"}


@dataclass(frozen=True)
class OperatorTestResult:
    """What `judge_operators` found.

    Attributes:
        source: the folder, file or module of the operators.
        matrix: what was judged, and what was not.
    """

    source: str
    matrix: Matrix

    @property
    def passed(self) -> bool:
        """Whether something was judged, and nothing failed."""
        return self.matrix.passed

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {"source": self.source, **self.matrix.to_dict()}


def judge_operators(
    source: str | Path,
    *,
    only: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _text: None,
) -> OperatorTestResult:
    """Hold every implementation of some operators to their definition in float64.

    The definition is the function of the operator's name in `oracle.py`; without that file PyTorch's function in
    float64. `cases.py` says sizes and ranges of numbers. The kernels are built first, into `lib` beside them, apart
    from the host shim's.

    Args:
        source: an operator's folder, a .py file, a folder of these, or a module.
        only: some of IMPLEMENTATIONS; none: all.
        dtypes: some of "fp32", "fp16", "bf16"; none: all.
        progress: receives the name of each phase.

    Raises:
        UsageError: there is no such implementation or type.
        OperatorError: the operators cannot be loaded.
        BadInputError: the kernels do not compile.
    """
    for words, known in ((only, IMPLEMENTATIONS), (dtypes, DTYPES)):
        unknown = [word for word in words if word not in known]
        if unknown:
            raise UsageError(f"there is no {unknown[0]!r} to test", f"choose from {', '.join(known)}")
    operators = operators_of(str(source))
    wanted, dtypes = only or IMPLEMENTATIONS, dtypes or DTYPES
    with tempfile.TemporaryDirectory() as scratch:
        libraries = _Libraries(source, operators, wanted, Path(scratch), progress)
        subjects = [subject_of(operator) for operator in operators]
        made = {subject.operator.qualified_name: _implementations(subject, wanted, libraries) for subject in subjects}
        matrix = judge(subjects, lambda subject, _dtype: made[subject.operator.qualified_name], dtypes, progress)
        cells = list(matrix.cells)
        if "engine" in wanted:
            for subject in subjects:
                cells += [_engine(subject, dtype, libraries, Path(scratch), progress) for dtype in dtypes]
    return OperatorTestResult(str(source), Matrix(tuple(cells)))


def subject_of(operator: Operator) -> Subject:
    """Return an operator under test with what its folder says: its first small case, and its oracle.

    Raises:
        OperatorError: a file of the folder cannot be imported, or lacks what it is for.
    """
    home = home_of(operator)
    cases = _part(operator, home.folder / "cases.py") if home else None
    oracle = _part(operator, home.folder / "oracle.py") if home else None
    function = getattr(oracle, operator.torch_name, None)
    if oracle is not None and function is None:
        raise OperatorError(f"{oracle.__file__} has no function {operator.torch_name}")
    return Subject(operator, _small(operator, cases), function)


def _small(operator: Operator, cases: ModuleType | None) -> Case:
    if cases is None:
        try:
            return default_case(operator)
        except ValueError as error:
            raise OperatorError(str(error), "say sizes in cases.py beside its kernels") from error
    found = [case for case in cases.SMALL if case.operator.qualified_name == operator.qualified_name]
    if not found:
        raise OperatorError(f"{cases.__file__} has no case of {operator.qualified_name} in SMALL")
    return Case(operator, found[0].sizes, found[0].attributes, found[0].ranges, found[0].starts)


def _part(operator: Operator, path: Path) -> ModuleType | None:
    """Import a file of an operator's folder, by its path: it may stand beside a file and be in no package."""
    if not path.is_file():
        return None
    name = f"hsm_export_operators_{operator.domain}_{operator.torch_name}_{path.stem}".replace(".", "_")
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:  # somebody's file can fail in any way
        raise OperatorError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


class _Libraries:
    """The libraries that are tested, or why there are none."""

    def __init__(
        self,
        source: str | Path,
        operators: Sequence[Operator],
        wanted: Sequence[str],
        scratch: Path,
        progress: Callable[[str], None],
    ) -> None:
        self.paths: dict[str, Path] = {}
        self._missing: dict[str, str] = {}
        parts = dict.fromkeys(_BUILT[name] for name in wanted if name in _BUILT)
        if not any(_has(operator, name) for operator in operators for name in _BUILT if name in wanted):
            return
        for part in parts:
            try:
                # Built for one architecture: whether it is a plugin does not depend on it.
                done = build_operators(source, only=[part], architectures="sm86", progress=progress)
            except MissingDependencyError as error:
                self._missing[part] = error.message
                continue
            self._add(part, done)

    def _add(self, part: str, done: OperatorBuildResult) -> None:
        for library in done.libraries:
            self.paths[part] = library.path
        for reason in done.left_out.values():
            self._missing.setdefault(part, reason)

    def why_not(self, operator: Operator, name: str) -> str:
        """Return why an implementation cannot be tested; "" where it can."""
        if not _has(operator, name):
            return f"it has no {_SOURCES[name]}"
        part = _BUILT[name]
        if part not in self.paths:
            return self._missing.get(part, "its library was not built")
        if signature(operator) not in open_library(self.paths[part]).signatures:
            return f"{self.paths[part].name} does not hold it"
        return ""


def _has(operator: Operator, name: str) -> bool:
    home = home_of(operator)
    return home is not None and (home.folder / _SOURCES[name]).is_file()


def _implementations(
    subject: Subject, wanted: Sequence[str], libraries: _Libraries
) -> Mapping[str, Implementation | str]:
    """Return the implementations of an operator by name; a sentence in place of one that is skipped."""
    found: dict[str, Implementation | str] = {}
    operator = subject.operator
    if "torch" in wanted:
        found["torch"] = _torch(subject)
    found |= {name: body for name, body in bodies(subject).items() if name in wanted}
    for kind in ("naive", "fast"):
        if kind in wanted:
            why_not = libraries.why_not(operator, kind)
            found[kind] = why_not or _kernel(operator, libraries.paths["torch"], kind)
    if "cuda" in wanted:
        why_not = libraries.why_not(operator, "cuda")
        if why_not:
            found["cuda"] = why_not
        else:
            tactics = EmulatedLibrary(libraries.paths["emulated"]).tactics(operator)
            found |= {f"cuda {name}": kernel for name, kernel in tactics.items()}
    return found


def _torch(subject: Subject) -> Implementation | str:
    if overload_of(subject.operator) is None:
        return "PyTorch knows no function of it"
    if subject.oracle is None:
        return "there is no oracle.py, so that PyTorch's function is the definition itself"
    return Torch()


def _kernel(operator: Operator, path: Path, kind: str) -> Implementation | str:
    kernel = KernelLibrary(path).kernel(operator, kind)
    return KernelOf(kernel, kind, kind == "fast") if kernel else f"{path.name} has no {kind} kernel of it"


def _engine(
    subject: Subject, dtype: str, libraries: _Libraries, scratch: Path, progress: Callable[[str], None]
) -> Cell:
    """Build an engine of one node with the plugin, and count the layers that are plugins."""
    import onnx

    from ..building import build

    operator = subject.operator
    name = operator.qualified_name
    why_not = libraries.why_not(operator, "engine") or _no_builder()
    if why_not:
        return Cell(name, "engine", dtype, skipped=why_not)
    progress(f"engine of {name} in {dtype}")
    held = {key: size for key, size in subject.sizes({}).items() if key not in (subject.batch, subject.time)}
    path = scratch / f"{operator.torch_name}-{dtype}.onnx"
    profile = {key: size for key, size in ((subject.batch, "1:2:4"), (subject.time, "1:16:300")) if key}
    try:
        onnx.save(retyped(one_node_model(operator, subject.attributes, "fp32", held), operator, dtype), path)
        built = build(path, path.with_suffix(".engine"), architectures=["sm86"], plugins=True, profiles=[profile])
    except HsmExportError as error:
        return Cell(name, "engine", dtype, (Check("plugin layers", problem=error.message),))
    layers = list(built.plugins.layers.values()) if built.plugins else []
    problem = "" if len(layers) == 1 else f"{len(layers)} layers are plugins instead of 1"
    return Cell(name, "engine", dtype, (Check("plugin layers", problem=problem),))


def _no_builder() -> str:
    found = importlib.util.find_spec("tensorrt_rtx") is not None
    return "" if found else "TensorRT-RTX is not installed: pip install 'hsm-export[rtx]'"


def lines(matrix: Matrix) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield operator, implementation, type, verdict and a word on it for each cell of a table."""
    for cell in matrix.cells:
        worst = cell.worst
        if cell.skipped or worst is None:
            word = cell.skipped or "nothing to judge"
        elif worst.problem:
            word = f"{worst.what}: {worst.problem}"
        else:
            error = f"{worst.worst:.2f} of the allowed error" if worst.worst else "no error"
            word = f"{error} ({worst.what}), {len(cell.checks)} checks"
        yield cell.operator, cell.implementation, cell.dtype, cell.verdict, word
