"""Plants faults: applies a patch to copies of the real sources, rebuilds what they make, and asks `diff` about it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.results import DiffResult
from hsm_export.exporting.assembling import finished_graph
from hsm_export.exporting.decoding import DecodeOptions, decoding_source
from hsm_export.exporting.finishing import write
from hsm_export.exporting.source import resolve

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent
_CACHE = ROOT / "build" / "faults"
_LIBRARY = "libhsm_onnxruntime.so"
_BUILD_FILES = (".txt", ".cmake", ".in")
_DIFFERS = 5
# One instruction set and few optimisations: a patched kernel is compiled in seconds.
_FLAGS = "-O1 -DHWY_COMPILE_ONLY_STATIC"
_PYTHON_TREES = ("exporter/hsm_export", "models/hsm_models", "plugins/hsm_operators")

# An editable installation finds its packages before PYTHONPATH does.
_FROM_TREE = """
import os, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
import hsm_export
assert hsm_export.__file__.startswith(os.environ["PYTHONPATH"].split(os.pathsep)[0]), hsm_export.__file__
"""
_COMMAND = _FROM_TREE + "from hsm_export.cli import main; main()"
# Writes a file as `hsm-export export` does, but for its own check, which would refuse a wrong one.
_EXPORT = (
    _FROM_TREE
    + """
import json
from pathlib import Path
from hsm_export.exporting.assembling import finished_graph
from hsm_export.exporting.decoding import DecodeOptions, decoding_source
from hsm_export.exporting.finishing import write
from hsm_export.exporting.source import resolve

checkpoint, target, precision, decode = json.loads(sys.argv[1])
source = resolve(checkpoint)
if decode:
    source = decoding_source(source, DecodeOptions(), precision)
model, _ = finished_graph(source, precision)
write(model, Path(target), None)
"""
)


def patch_of(name: str) -> Path:
    """Return the patch file of a fault."""
    return PATCHES / f"{name}.patch"


def export(
    checkpoint: Path, target: Path, patch: Path | None = None, precision: str = "fp32", decode: bool = False
) -> Path:
    """Export a checkpoint, with a patch by the exporter of a patched copy, without the check that ends an export."""
    if patch is None:
        source = resolve(checkpoint)
        if decode:
            source = decoding_source(source, DecodeOptions(), precision)
        write(finished_graph(source, precision)[0], target, None)
        return target
    tree = _patched_tree(target.with_suffix(".tree"), patch)
    _python(["-c", _EXPORT, json.dumps([str(checkpoint), str(target), precision, decode])], _paths(tree))
    return target


def refused_export(checkpoint: Path, target: Path, patch: Path) -> str:
    """Run `hsm-export export` with a patch, which must refuse its own file; return what it says."""
    tree = _patched_tree(target.with_suffix(".tree"), patch)
    arguments = ["-c", _COMMAND, "export", str(checkpoint), "-o", str(target)]
    return _python(arguments, _paths(tree), expected=(_DIFFERS,)).stderr


def library(patch: Path | None) -> Path:
    """Return the ONNX Runtime library of the C++ sources with a patch; builds what no earlier run has built."""
    digest = _digest(patch)
    built = _CACHE / "libraries" / digest / _LIBRARY
    if not built.is_file():
        with _locked():
            if not built.is_file():
                _build(patch, built)
    return built


def compare(
    model: Path, against: Path | None, runtimes: Sequence[str], shape: tuple[int, int], kernels: Path | None = None
) -> DiffResult:
    """Run `diff` with layers and bisection on one shape of inputs.

    Args:
        model: the ONNX file.
        against: the checkpoint; None for none.
        runtimes: names.
        shape: batch and length.
        kernels: the library of fused kernels; None takes the installed one.
    """
    options = DiffOptions(layers=True, bisect=True, generate=0)
    with pytest.MonkeyPatch.context() as patch:
        if kernels is not None:
            patch.setenv("HSM_FUSED_LIBRARY", str(kernels))
        return diff(model, runtimes, against=against, shapes=[shape], options=options)


def _patched_tree(folder: Path, patch: Path) -> Path:
    """Copy the Python sources to a folder, unless they are there, and apply a patch; return the folder."""
    if not folder.is_dir():
        for tree in _PYTHON_TREES:
            shutil.copytree(ROOT / tree, folder / tree, ignore=shutil.ignore_patterns("__pycache__"))
        _apply(folder, patch)
    return folder


def _paths(tree: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(str((tree / name).parent) for name in _PYTHON_TREES)}


def _python(
    arguments: Sequence[str], environment: dict[str, str], expected: tuple[int, ...] = (0,)
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in expected, done.stdout + done.stderr
    return done


def _apply(folder: Path, patch: Path) -> None:
    """Apply a patch to the copied sources; a folder inside a checkout would be taken for that checkout."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    command = ["git", "apply", "--whitespace=nowarn", str(patch)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{patch.name} does not fit the sources any more: {done.stderr}"


def _sources() -> list[Path]:
    plugins = ROOT / "plugins"
    folders = (plugins / name for name in ("hsm_operators", "onnxruntime", "torch", "cmake"))
    inside = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    at_top = [path for path in sorted(plugins.iterdir()) if path.suffix in _BUILD_FILES]
    return [*at_top, *(path for path in inside if "cuda" not in path.parent.name)]


def _digest(patch: Path | None) -> str:
    """Return a name for the library that the present code and a patch make; build files change nothing in it."""
    total = hashlib.sha256(_FLAGS.encode())
    code = [path for path in _sources() if path.suffix in (".cc", ".h")]
    for path in [*code, *([] if patch is None else [patch])]:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _build(patch: Path | None, target: Path) -> None:
    """Build in one folder that keeps its objects, so that only what a patch touches is compiled again."""
    tree, build = _CACHE / "tree", _CACHE / "native"
    changed = _synchronise(tree)
    if patch is not None:
        _apply(tree, patch)
    try:
        if changed or not (build / "build.ninja").is_file():
            _run(["cmake", "-G", "Ninja", "-S", tree / "plugins", "-B", build, *_definitions()])
        _run(["ninja", "-C", build, "-j", "2", "hsm_onnxruntime"])
    finally:
        if patch is not None:
            _synchronise(tree)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".part")
    shutil.copyfile(next(build.rglob(_LIBRARY)), scratch)
    scratch.replace(target)


def _synchronise(tree: Path) -> bool:
    """Copy sources that differ, which alone are then compiled again; say whether any build file did."""
    build_files = False
    for path in _sources():
        copy = tree / path.relative_to(ROOT)
        if copy.is_file() and copy.read_bytes() == path.read_bytes():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        build_files = build_files or path.suffix in _BUILD_FILES
    return build_files


def _definitions() -> list[str]:
    """Return CMake's options: the CPU's library alone, from what the checkout has fetched already."""
    highway = next(_fetched("highway").glob("highway-*"))
    headers = _fetched("onnxruntime-headers") / "usr" / "include" / "onnxruntime"
    off = [f"-DHSM_{part}=OFF" for part in ("CUDA", "TENSORRT", "RUNTIME", "FETCH")]
    return [
        "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_FLAGS={_FLAGS}", "-DHSM_ONNXRUNTIME=ON", *off,
        f"-DHSM_HIGHWAY_DIR={highway}", f"-DHSM_ONNXRUNTIME_INCLUDE_DIR={headers}",
    ]  # fmt: skip


def _fetched(name: str) -> Path:
    return Path(_run([sys.executable, ROOT / "tools" / "fetch.py", name]).strip().splitlines()[-1])


def _run(command: Sequence[Any]) -> str:
    """Run a program; the environment brings cmake and ninja where the system has none."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def _locked() -> Iterator[None]:
    """One build at a time, among parallel test processes too."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
