"""Files that tests share, within a run and between runs: the first that needs one makes it, the others wait for it.

They lie in build/test-cache, in a folder for each state of the sources that decide them. Whatever changes there makes
all of them anew; only the newest folders stay.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import itertools
import json
import os
import platform
import runpy
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet
    from torch import nn

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "test-cache"
_KEPT = 3  # states of the sources
_FOLDERS = ("exporter", "models", "plugins", "examples")
_ready: set[Path] = set()  # what this process has seen whole
_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy", "safetensors")


@functools.cache
def cache_folder() -> Path:
    """Return the folder of the present state of the sources."""
    digest = hashlib.sha256()
    for text in (platform.python_version(), *(f"{name} {version(name)}" for name in _PACKAGES)):
        digest.update(f"{text}\n".encode())
    for path in _deciding():
        digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    folder = CACHE / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _deciding() -> Iterator[Path]:
    """Yield the files that decide what is made: all sources, and of the tests what tests share."""
    for name in (*_FOLDERS, "tests"):
        yield from (path for path in _files(ROOT / name) if not path.name.startswith("test_"))


def _files(folder: Path) -> Iterator[Path]:
    hidden = {"__pycache__", "lib"}
    paths = (path for path in folder.rglob("*") if path.is_file() and not hidden & set(path.parts[len(ROOT.parts) :]))
    return iter(sorted(paths))


def begin_run() -> None:
    """Forget what old states of the sources made; called once, before other processes of the run start."""
    own = cache_folder()
    os.utime(own)
    folders = sorted((item for item in CACHE.iterdir() if item.is_dir()), key=lambda item: item.stat().st_mtime)
    for folder in folders[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return the shared file or folder of that name; `make` gets its path, which has a folder of its own.

    Whoever changes it copies it first: what was changed since it was made is made anew. A failure is not kept: the next
    one to ask tries again. The file that defines `make` decides what is made as well as the sources do.
    """
    defined = Path(make.__code__.co_filename).read_bytes()  # type: ignore[attr-defined]
    folder = cache_folder() / f"{name}.{hashlib.sha256(defined).hexdigest()[:8]}"
    path, done = folder / name, folder / "done.json"
    if folder in _ready:
        return path
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or json.loads(done.read_text()) != _contents(folder):
            done.unlink(missing_ok=True)
            for item in folder.iterdir():
                if item.is_dir():
                    shutil.rmtree(item)
                elif item.name != "lock":
                    item.unlink()
            make(path)
            done.write_text(json.dumps(_contents(folder)))
    _ready.add(folder)
    return path


def _contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all that was made, by path."""
    paths = (item for item in sorted(folder.rglob("*")) if item.is_file())
    return {
        str(item.relative_to(folder)): hashlib.sha256(item.read_bytes()).hexdigest()
        for item in paths
        if item.name not in ("lock", "done.json")
    }


def diagonal(*axes: Sequence[object]) -> list[ParameterSet]:
    """Return every combination of the axes' values for `parametrize`; `make test` runs as few as hold each value once.

    The others are slow: `make check-all` runs them.
    """
    chosen = {tuple(axis[place % len(axis)] for axis in axes) for place in range(max(map(len, axes)))}
    return [pytest.param(*cell, marks=() if cell in chosen else pytest.mark.slow) for cell in itertools.product(*axes)]


# The language models of examples/language_models, each a file with a function `make`.
EXAMPLES = ("lfm2", "mamba", "rwkv")


def example(name: str) -> str:
    """Return what names an example's model for the toolkit: FILE.py:FACTORY."""
    return f"{ROOT / 'examples' / 'language_models' / name}.py:make"


def example_model(name: str) -> nn.Module:
    """Return an example's model."""
    path, _, factory = example(name).rpartition(":")
    model: nn.Module = runpy.run_path(path)[factory]()
    return model.eval()
