"""Write a build kit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..building import portable
from ..building.network import network_bytes
from ..building.plan import Plan, make_plan
from ..building.portable.kit import KIT_FILE, NETWORK, REFERENCES, digest
from ..building.targets import check_known
from ..errors import BadInputError, UsageError
from ..files import atomic_directory
from ..formats.build_options import BuildOptions
from ..formats.result import Result
from .manifest import Manifest, file_digests, write_manifest
from .proof import arrays, descriptions, prove
from .readme import readme_text

if TYPE_CHECKING:
    from torch import nn

    from ..validation.references import References

# The Python modules of a kit keep their places in this package, and so their imports; and the program starts them.
_PACKAGE, _PORTABLE = "hsm_kit", "building/portable"
_MEASURE = ("comparison/__init__.py", "comparison/error.py", "comparison/verdict.py", "dtypes.py")
_PROGRAM = '''"""Build, run and check this kit's engine; needs TensorRT and NumPy. `python build.py --help`"""

import sys
from pathlib import Path

# Leave no __pycache__ in the kit.
sys.dont_write_bytecode = True

from hsm_kit.building.portable.kit import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
'''


@dataclass(frozen=True)
class KitResult(Result):
    """A build kit.

    Attributes:
        kit: its folder.
        target: what it builds for.
        files: number of files.
        bytes: size of all files.
        sha256: SHA-256 of its manifest, which holds those of all other files.
        plugin_layers: nodes that become plugin layers; 0 when the function bodies are compiled.
        cases: sets of inputs that it runs.
        arbiter: the runtime whose float64 numbers are its references.
        compared: share of the outputs' elements that are compared (see `validation.references`).
    """

    kit: Path
    target: str
    files: int
    bytes: int
    sha256: str
    plugin_layers: int
    cases: int
    arbiter: str
    compared: float


def write_kit(
    model: str | Path,
    directory: str | Path,
    options: BuildOptions | None = None,
    *,
    against: str | Path | nn.Module | None = None,
    progress: Callable[[str], None] | None = None,
    **choices: Any,
) -> KitResult:
    """Write a folder with which a GPU machine builds an engine, runs it and compares its numbers.

    Needs neither a GPU nor TensorRT; the GPU machine needs nothing but TensorRT and NumPy.

    Args:
        model: the ONNX file.
        directory: the kit's folder; must not exist yet, or be empty.
        options: how to build.
        against: checkpoint, `zoo:NAME` or module whose float64 numbers are the references; None takes those of the
            file's own maths in float64.
        progress: receives the name of each phase.
        choices: the fields of `BuildOptions` one by one, in place of `options`; the target is "tensorrt" then, unless
            it is given.

    Raises:
        UsageError: options that contradict each other or the model.
        BadInputError: the model is not a usable ONNX file, its numbers are not finite, or the folder cannot be made.
        BuildRefusedError: the target cannot take the network.
        MissingDependencyError: plugins are wanted, and this installation has none.
    """
    report = progress or (lambda _phase: None)
    options = BuildOptions.of(options, choices if options else {"target": "tensorrt", **choices})
    check_known(options.target)
    if options.timing_cache is not None:
        raise UsageError("--timing-cache is a file of the GPU machine", "give it to the kit's build.py there")
    if options.strip_weights:
        raise UsageError(
            "an engine without weights cannot be run, so a kit cannot check it", "leave --strip-weights out"
        )
    directory = Path(directory)
    _check_directory(directory)
    report("reading the model")
    plan = make_plan(model, options)
    references = prove(plan, against, report)
    if not references.compared:
        raise BadInputError(
            f"{plan.source.path}: in every case a right runtime may choose other experts, so no number can be compared",
            "export in fp32 or fp16",
        )
    report("writing the kit")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(directory.parent) as scratch:
        kit = scratch / directory.name
        kit.mkdir()
        _fill(kit, plan, references)
        kit.replace(directory)
    return _result(directory, plan, references)


def _check_directory(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadInputError(f"{directory} exists and is not an empty folder", "name a new folder")


def _fill(kit: Path, plan: Plan, references: References) -> None:
    """Put everything into a kit's folder; the manifest, which describes the other files, comes last."""
    source = plan.source.path
    (kit / NETWORK).write_bytes(network_bytes(source, plugins=frozenset(plan.nodes.values())))
    for name in plan.source.external_data:
        target = kit / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, target)
    for library in plan.libraries:
        shutil.copyfile(library, kit / library.name)
    inside = replace(plan, libraries=tuple(kit / library.name for library in plan.libraries))
    np.savez_compressed(kit / REFERENCES, **arrays(references))
    _copy_programs(kit)
    (kit / "README.md").write_text(readme_text(inside, references), encoding="utf-8")
    files = file_digests(kit)
    write_manifest(kit, Manifest(inside, files, descriptions(references), references.arbiter, references.compared))


def _copy_programs(kit: Path) -> None:
    (kit / "build.py").write_text(_PROGRAM, encoding="utf-8")
    root = Path(str(portable.__file__)).parents[2]
    for module in (*sorted((root / _PORTABLE).glob("*.py")), *(root / name for name in _MEASURE)):
        copy = kit / _PACKAGE / module.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, copy)
    for package in (kit / _PACKAGE, (kit / _PACKAGE / _PORTABLE).parent):
        (package / "__init__.py").touch()


def _result(kit: Path, plan: Plan, references: References) -> KitResult:
    files = [path for path in kit.rglob("*") if path.is_file()]
    return KitResult(
        kit=kit,
        target=plan.target,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        sha256=digest(kit / KIT_FILE),
        plugin_layers=len(plan.nodes),
        cases=len(references.cases),
        arbiter=references.arbiter,
        compared=references.compared,
    )
